# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Evaluation for both recipes, through the metric script in metrics/ and the `evaluate` library."""

from pathlib import Path

import evaluate
import numpy
import torch
from accelerate import Accelerator
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel

IGNORED = -100
"""Label of a token that is not to be predicted."""
METRIC = Path(__file__).parent / "metrics" / "clm_quality.py"


def load_metric() -> evaluate.EvaluationModule:
    """The metric in the repository, kept in memory: ranks that share a file system do not meet in its cache."""
    return evaluate.load(str(METRIC), keep_in_memory=True)


def score_blocks(
    logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The most likely token at each place, and each block's loss: nats summed over the tokens that it predicts.

    For Trainer's `preprocess_logits_for_metrics` too: ranks exchange one token per place and one sum per block, not a
    whole vocabulary.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    # Block by block, for the memory: in float32 the logits of a batch can be the largest tensor of all.
    losses = [
        functional.cross_entropy(places[:-1].float(), tokens[1:], reduction="sum", ignore_index=IGNORED)
        for places, tokens in zip(logits, labels, strict=True)
    ]
    return logits.argmax(dim=-1).int(), torch.stack(losses)


def quality(
    metric: evaluate.EvaluationModule, predicted: numpy.ndarray, losses: numpy.ndarray, labels: numpy.ndarray
) -> dict[str, float]:
    """`loss`, `accuracy` and `perplexity` of blocks that `score_blocks` scored: means over all predicted tokens.

    Trainer's own evaluation loss is none: it is a mean over batches in which the blocks that even out the ranks count
    twice, and where transformers does not know that a model shifts its labels, of n tokens of a block n - 1 count.
    """
    references = labels[:, 1:].reshape(-1)
    loss = float(losses.sum(dtype="float64") / max(1, (references != IGNORED).sum()))
    return metric.compute(predictions=predicted[:, :-1].reshape(-1), references=references, loss=loss) | {"loss": loss}


def trainer_quality(metric: evaluate.EvaluationModule):
    """A `compute_metrics` for Trainer, whose own `eval_loss` gives way to this one; needs `score_blocks`."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        predicted, losses = prediction.predictions
        return quality(metric, predicted, losses, prediction.label_ids)

    return compute


@torch.no_grad()
def evaluate_blocks(
    accelerator: Accelerator, model: PreTrainedModel, loader: DataLoader, metric: evaluate.EvaluationModule
) -> dict[str, float]:
    """`eval_loss` (nats per token), `eval_accuracy` and `perplexity` of a model over a prepared loader.

    Collective. Batches carry `input_ids`, `labels` and each block's number as `block`. Every rank scores its share;
    results cross the network once at the end, and blocks that were handed out twice to even out the ranks count once.
    """
    model.eval()
    numbers, scores, references = [], [], []
    for batch in loader:
        numbers.append(batch.pop("block"))
        scores.append(score_blocks(model(input_ids=batch["input_ids"]).logits, batch["labels"]))
        references.append(batch["labels"].int())
    model.train()
    own = [torch.cat(parts) for parts in (numbers, *zip(*scores, strict=True), references)]
    number, predicted, losses, true = (part.cpu() for part in accelerator.gather(own))
    first = {int(block): place for place, block in reversed(list(enumerate(number)))}
    kept = torch.tensor(sorted(first.values()))
    found = quality(metric, predicted[kept].numpy(), losses[kept].numpy(), true[kept].numpy())
    return {"eval_loss": found["loss"], "eval_accuracy": found["accuracy"], "perplexity": found["perplexity"]}
