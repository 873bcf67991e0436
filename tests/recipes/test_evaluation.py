# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The metric script and the evaluations of both recipes."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainingArguments, default_data_collator

from recipes.data import build_blocks
from recipes.evaluation import evaluate_blocks, load_metric, score_blocks, trainer_quality
from recipes.finetune_clm import build_trainer
from recipes.model import fresh_model
from recipes.preparation import Prepared
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


def test_a_loss_that_is_no_number_has_no_perplexity(metric):
    assert math.isnan(metric.compute(predictions=[1], references=[1], loss=math.nan)["perplexity"])


def test_each_prediction_is_of_the_next_token_and_tokens_count_alike(metric):
    labels = torch.tensor([[5, 6, 7, 8], [1, 2, 3, -100]])
    logits = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    predicted, losses = score_blocks((logits, "past"), labels)
    assert predicted.tolist() == logits.argmax(-1).tolist() and losses.shape == (2,)
    found = trainer_quality(metric)(
        EvalPrediction(predictions=(predicted.numpy(), losses.numpy()), label_ids=labels.numpy())
    )
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).item()  # of 5 tokens
    right = (predicted[:, :-1] == labels[:, 1:]).sum().item() / 5
    assert found == pytest.approx({"loss": expected, "perplexity": math.exp(expected), "accuracy": right})


@pytest.mark.parametrize("known", ["ForCausalLM", None])
def test_both_recipes_give_the_mean_over_predicted_tokens(tmp_path, metric, known):
    """Whether or not transformers knows that the model shifts its labels; one in eight tokens is not predicted."""
    tokenizer = train_byte_level_bpe(["some text to learn from"], vocab_size=270)
    torch.manual_seed(0)
    model = fresh_model("gpt2", "n_layer=1,n_embd=32,n_head=2,initializer_range=0.5", tokenizer)
    model.loss_type = known
    blocks = build_blocks(["what is scored " * 21], tokenizer, 8)
    tokens = torch.tensor(blocks["input_ids"][:])
    with torch.no_grad():
        logits = model.eval()(input_ids=tokens).logits[:, :-1]
    expected = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    right = (logits.argmax(-1) == tokens[:, 1:]).float().mean().item()

    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", per_device_eval_batch_size=4)
    prepared = Prepared(model=model, tokenizer=tokenizer, train_blocks=None, eval_blocks=blocks)
    by_trainer = build_trainer(arguments, prepared).evaluate()
    numbered = blocks.add_column("block", list(range(len(blocks))))
    loader = DataLoader(numbered, batch_size=4, collate_fn=default_data_collator)
    by_loop = evaluate_blocks(Accelerator(cpu=True), model, loader, metric)
    by_trainer["perplexity"] = by_trainer["eval_perplexity"]
    for found in (by_trainer, by_loop):
        assert found["eval_loss"] == pytest.approx(expected, rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
        assert found["eval_accuracy"] == pytest.approx(right)


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
