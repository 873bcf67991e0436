# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Small SFT and DPO runs of trl, over words that they make for themselves."""

from random import Random

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast, Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tests.workers.models import BLOCK, VOCABULARY, build_model

KINDS = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig)}


def build(kind: str, recording: type, model: nn.Module, examples: int, settings: dict, **how: object) -> Trainer:
    """A trainer of that kind with the mixin `recording`; `settings` as its configuration takes them."""
    trainer, arguments = KINDS[kind]
    if kind == "dpo":
        how["ref_model"] = build_model("gpt2")
    return type("Recorded", (recording, trainer), {})(
        model=model,
        args=arguments(**settings, max_length=BLOCK),
        train_dataset=_data(kind, examples),
        processing_class=_tokenizer(),
        **how,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{i}": i for i in range(VOCABULARY - 2)} | {"<pad>": VOCABULARY - 2, "<eos>": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def _data(kind: str, examples: int) -> Dataset:
    random = Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{random.randrange(VOCABULARY - 2)}" for _ in range(count))

    if kind == "sft":
        return Dataset.from_list([{"text": words(BLOCK - 2)} for _ in range(examples)])
    return Dataset.from_list(
        [{"prompt": words(3), "chosen": f" {words(5)}", "rejected": f" {words(5)}"} for _ in range(examples)]
    )
