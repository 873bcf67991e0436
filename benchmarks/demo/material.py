# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What all runs share, made once: tokenizer, blocks of tokens and the model's first weights."""

from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
import transformers
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from benchmarks.demo.setting import BLOCKS, START, Setting
from recipes.data import build_blocks, load_default_corpus
from recipes.model import fresh_model
from recipes.tokenizer import train_byte_level_bpe


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What was made, in numbers."""

    tokenizer: PreTrainedTokenizerBase
    parameters: int
    train_blocks: int
    eval_blocks: int


def make_material(setting: Setting, folder: Path) -> Material:
    """Writes setting, blocks and first weights into `folder`, from the text of Python's own documentation."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    corpus = load_default_corpus(setting.held_out_percent)
    tokenizer = train_byte_level_bpe(corpus.train, setting.vocabulary)
    blocks = {
        split: torch.tensor(build_blocks(texts, tokenizer, setting.block)["input_ids"], dtype=torch.int32)
        for split, texts in {"train": corpus.train, "validation": corpus.validation}.items()
    }
    save_file(blocks, folder / BLOCKS)
    transformers.set_seed(setting.seed)
    model = fresh_model("gpt2", setting.model_sizes, tokenizer)
    model.save_pretrained(folder / START)
    setting.save(folder)
    return Material(
        tokenizer=tokenizer,
        parameters=model.num_parameters(),
        train_blocks=len(blocks["train"]),
        eval_blocks=len(blocks["validation"]),
    )
