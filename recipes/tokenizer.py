# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A tokenizer for the run: one that exists, or one trained on the run's own text."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from recipes.arguments import ModelArguments

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCAB_SIZE = 8192

_SMALLEST_VOCABULARY = 257


def train_byte_level_bpe(texts: Iterable[str], vocab_size: int = DEFAULT_VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """A GPT-2 style byte-level BPE tokenizer; the same texts give the same tokenizer in every process.

    Its vocabulary is smaller than `vocab_size` where the text has no more pairs to merge. One token,
    `<|endoftext|>`, is beginning, end and padding.

    Raises ValueError for a vocabulary smaller than the 256 bytes and that token.
    """
    if vocab_size < _SMALLEST_VOCABULARY:
        raise ValueError(f"--vocab_size is {vocab_size}: 256 bytes and {END_OF_TEXT} need at least 257.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def load_tokenizer(
    arguments: ModelArguments, texts: Iterable[str], *, private: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that the arguments name, else one trained on `texts`.

    Raises ValueError if the named one cannot be had, and for `private` texts: sites that train their own tokenizers
    would not speak the same tokens.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path
    if name is None:
        if private:
            raise ValueError(
                "--private_data needs one tokenizer for all sites: pass --tokenizer_name or --model_name_or_path."
            )
        return train_byte_level_bpe(texts, arguments.vocab_size or DEFAULT_VOCAB_SIZE)
    try:
        return AutoTokenizer.from_pretrained(
            name,
            cache_dir=arguments.cache_dir,
            revision=arguments.model_revision,
            token=arguments.token,
            trust_remote_code=arguments.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"no tokenizer at {name}: {error}") from error
