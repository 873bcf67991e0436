# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The tokenizer of fresh models: the same everywhere, lossless, loadable."""

import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from recipes.arguments import ModelArguments
from recipes.data import load_default_corpus, tokenizer_digest
from recipes.tokenizer import END_OF_TEXT, load_tokenizer, train_byte_level_bpe

FRESH = ModelArguments(model_type="gpt2", vocab_size=300)


def test_every_process_trains_the_same_tokenizer():
    here = tokenizer_digest(train_byte_level_bpe(load_default_corpus().train))
    program = (
        "from recipes.data import *; from recipes.tokenizer import *; "
        "print(tokenizer_digest(train_byte_level_bpe(load_default_corpus().train)))"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert there.stdout.strip() == here


def test_text_survives_and_special_tokens_are_set():
    tokenizer = train_byte_level_bpe(["plain text"], vocab_size=300)
    text = "  Grüße,\n\tκόσμε 🌍 "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == tokenizer.bos_token == tokenizer.pad_token == END_OF_TEXT
    assert len(tokenizer) <= 300


def test_it_loads_after_saving(tmp_path):
    tokenizer = load_tokenizer(FRESH, load_default_corpus().train)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path)) == tokenizer_digest(tokenizer)
    by_name = load_tokenizer(ModelArguments(model_type="gpt2", tokenizer_name=str(tmp_path)), ["unused"])
    assert tokenizer_digest(by_name) == tokenizer_digest(tokenizer)


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ValueError, match="--vocab_size is 256"):
        train_byte_level_bpe(["text"], vocab_size=256)


def test_private_text_does_not_make_a_tokenizer():
    with pytest.raises(ValueError, match="one tokenizer for all sites"):
        load_tokenizer(FRESH, ["secret"], private=True)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no tokenizer at {tmp_path}"):
        load_tokenizer(ModelArguments(model_type="gpt2", tokenizer_name=str(tmp_path)), [])
