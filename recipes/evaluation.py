# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Evaluation for both recipes, through the metric script in metrics/ and the `evaluate` library."""

from pathlib import Path

import evaluate
import torch
from accelerate import Accelerator
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel

METRIC = Path(__file__).parent / "metrics" / "clm_quality.py"


def load_metric() -> evaluate.EvaluationModule:
    """The metric in the repository, kept in memory: ranks that share a file system do not meet in its cache."""
    return evaluate.load(str(METRIC), keep_in_memory=True)


def most_likely_tokens(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """For Trainer's `preprocess_logits_for_metrics`: ranks exchange one token per place, not a whole vocabulary."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)


def trainer_quality(metric: evaluate.EvaluationModule):
    """A `compute_metrics` for Trainer; needs `include_for_metrics=["loss"]`."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        return metric.compute(
            predictions=prediction.predictions[:, :-1].reshape(-1),
            references=prediction.label_ids[:, 1:].reshape(-1),
            loss=float(prediction.losses.mean()),
        )

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
    numbers, losses, predictions, references = [], [], [], []
    for batch in loader:
        numbers.append(batch.pop("block"))
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1].float()
        labels = batch["labels"][:, 1:]
        losses.append(functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(dim=1))
        predictions.append(logits.argmax(dim=-1).int())
        references.append(labels.int())
    model.train()
    own = [torch.cat(parts) for parts in (numbers, losses, predictions, references)]
    number, loss, predicted, true = (part.cpu() for part in accelerator.gather(own))
    first = {int(block): place for place, block in reversed(list(enumerate(number)))}
    kept = torch.tensor(sorted(first.values()))
    mean_loss = loss[kept].mean().item()
    quality = metric.compute(
        predictions=predicted[kept].flatten().numpy(), references=true[kept].flatten().numpy(), loss=mean_loss
    )
    return {"eval_loss": mean_loss, "eval_accuracy": quality["accuracy"], "perplexity": quality["perplexity"]}
