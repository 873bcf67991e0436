# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The metric script and the evaluation of the Accelerate recipe."""

import math

import numpy
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import EvalPrediction, default_data_collator

from recipes.data import build_blocks
from recipes.evaluation import evaluate_blocks, load_metric, most_likely_tokens, trainer_quality
from recipes.model import fresh_model
from recipes.tokenizer import train_byte_level_bpe


@pytest.fixture(scope="module")
def metric():
    return load_metric()


def test_accuracy_leaves_out_what_is_not_counted(metric):
    quality = metric.compute(predictions=[1, 2, 3, 4], references=[1, 2, 9, -100])
    assert quality == {"accuracy": pytest.approx(2 / 3)}


def test_perplexity_follows_from_the_loss(metric):
    quality = metric.compute(predictions=[1], references=[1], loss=math.log(7))
    assert quality["perplexity"] == pytest.approx(7)
    assert metric.compute(predictions=[1], references=[1], loss=1e4)["perplexity"] == math.inf


def test_nothing_to_score_is_an_error(metric):
    with pytest.raises(ValueError, match="no token to score"):
        metric.compute(predictions=[1, 2], references=[-100, -100])


def test_for_trainer_each_prediction_is_of_the_next_token(metric):
    tokens = numpy.array([[5, 6, 7, 8], [1, 2, 3, 4]])
    predictions = numpy.array([[6, 7, 8, 0], [2, 0, 4, 0]])
    prediction = EvalPrediction(predictions=predictions, label_ids=tokens, losses=numpy.array([1.0, 3.0]))
    quality = trainer_quality(metric)(prediction)
    assert quality == {"accuracy": pytest.approx(5 / 6), "perplexity": pytest.approx(math.exp(2.0))}


def test_logits_become_tokens():
    logits = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]])
    assert most_likely_tokens((logits, "past"), logits).tolist() == [[1, 0]]


def test_blocks_are_scored_as_the_model_itself_scores_them(metric):
    tokenizer = train_byte_level_bpe(["some text to learn from"], vocab_size=270)
    torch.manual_seed(0)
    model = fresh_model("gpt2", "n_layer=1,n_embd=32,n_head=2", tokenizer).train()
    blocks = build_blocks(["what is scored " * 20], tokenizer, 16)
    numbered = blocks.add_column("block", list(range(len(blocks))))
    loader = DataLoader(numbered, batch_size=4, collate_fn=default_data_collator)
    found = evaluate_blocks(Accelerator(cpu=True), model, loader, metric)
    assert model.training
    tokens = torch.tensor(blocks["input_ids"][:])
    with torch.no_grad():
        expected = model.eval()(input_ids=tokens, labels=tokens)
    assert len(blocks) % 4 != 0  # the last batch is a short one
    assert found["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    right = (expected.logits[:, :-1].argmax(-1) == tokens[:, 1:]).float().mean().item()
    assert found["eval_accuracy"] == pytest.approx(right)
    assert found["perplexity"] == pytest.approx(math.exp(expected.loss.item()), rel=1e-5)


def test_blocks_dealt_twice_count_once(metric):
    tokenizer = train_byte_level_bpe(["some text to learn from"], vocab_size=270)
    model = fresh_model("gpt2", "n_layer=1,n_embd=32,n_head=2", tokenizer)
    blocks = build_blocks(["what is scored " * 20], tokenizer, 16)
    numbered = blocks.add_column("block", list(range(len(blocks))))
    once, twice = (
        evaluate_blocks(
            Accelerator(cpu=True),
            model,
            DataLoader(numbered.select(order), batch_size=4, collate_fn=default_data_collator),
            metric,
        )
        for order in (list(range(len(blocks))), [*range(len(blocks)), 0, 0, 1])
    )
    assert twice == pytest.approx(once)
