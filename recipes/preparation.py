# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The way from arguments to model, tokenizer and blocks; the same for both recipes."""

from dataclasses import dataclass

from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from geo_accel.integrations.session import Session, of_jobs
from recipes.agreement import require_agreement
from recipes.arguments import DataTrainingArguments, GeoArguments, ModelArguments
from recipes.data import Corpus, blocks_digest, build_blocks, choose_block_size, load_corpus, tokenizer_digest
from recipes.model import context_length, load_model
from recipes.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """All that training needs."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    train_blocks: Dataset | None
    """None if the recipe does not train."""
    eval_blocks: Dataset | None
    """None if the recipe does not evaluate; the same on every rank."""
    session: Session | None = None
    """What leads to the other sites where each is a job of its own, and trains; else None."""


def prepare(
    model_arguments: ModelArguments,
    data_arguments: DataTrainingArguments,
    geo_arguments: GeoArguments,
    *,
    train: bool,
    evaluate: bool,
    seed: int,
) -> Prepared:
    """Load the text, the tokenizer and the model, and cut the text into blocks. Collective.

    The first process of each machine tokenizes, the others read its result. Equal seeds give equal fresh weights.

    Raises ValueError for whatever the user gave that cannot work, also where ranks were given different things.
    """
    private = geo_arguments.private_data
    if private and evaluate and not data_arguments.validation_file:
        raise ValueError(
            "--private_data leaves nothing to evaluate on: pass the same --validation_file at every site, or do not "
            "evaluate."
        )
    corpus = load_corpus(
        data_arguments, private=private, cache_dir=model_arguments.cache_dir, token=model_arguments.token
    )
    if train and len(corpus.train) == 0:
        raise ValueError("no training text: pass --train_file beside --validation_file.")
    if evaluate and not corpus.validation:
        raise ValueError("no evaluation text: pass --validation_file or a larger --validation_split_percentage.")
    tokenizer = load_tokenizer(model_arguments, _texts(corpus), private=private)
    set_seed(seed)
    model = load_model(model_arguments, tokenizer)
    block_size = choose_block_size(data_arguments.block_size, context_length(model.config))
    with PartialState().local_main_process_first():
        train_blocks = _blocks(corpus, "training", tokenizer, block_size, data_arguments) if train else None
        eval_blocks = _blocks(corpus, "evaluation", tokenizer, block_size, data_arguments) if evaluate else None
    facts = {"the tokenizer": tokenizer_digest(tokenizer), "the block size": str(block_size)}
    if train_blocks is not None and not private:
        facts["the training data"] = blocks_digest(train_blocks)
    if eval_blocks is not None:
        facts["the evaluation data"] = blocks_digest(eval_blocks)
    session = of_jobs(geo_arguments.geo_config) if train and not geo_arguments.no_geo else None
    require_agreement(facts, session)
    return Prepared(
        model=model, tokenizer=tokenizer, train_blocks=train_blocks, eval_blocks=eval_blocks, session=session
    )


def _texts(corpus: Corpus):
    return corpus.train["text"] if isinstance(corpus.train, Dataset) else corpus.train


def _blocks(
    corpus: Corpus, what: str, tokenizer: PreTrainedTokenizerBase, block_size: int, arguments: DataTrainingArguments
) -> Dataset:
    training = what == "training"
    blocks = build_blocks(
        corpus.train if training else corpus.validation,
        tokenizer,
        block_size,
        what=what,
        num_proc=arguments.preprocessing_num_workers,
        overwrite_cache=arguments.overwrite_cache,
    )
    limit = arguments.max_train_samples if training else arguments.max_eval_samples
    return blocks if limit is None else blocks.select(range(min(limit, len(blocks))))
