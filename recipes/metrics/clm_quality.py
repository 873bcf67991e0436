# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Quality of a causal language model: the share of tokens it predicts, and its perplexity."""

import math

import datasets
import evaluate
import numpy

IGNORED = -100


class ClmQuality(evaluate.Metric):
    """Use as `evaluate.load("recipes/metrics/clm_quality.py")`; works offline."""

    def _info(self) -> evaluate.MetricInfo:
        token = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Token accuracy and perplexity of next-token prediction.",
            citation="",
            inputs_description=(
                "predictions: most likely tokens, flat; references: true tokens, flat, -100 where not counted; "
                "loss (optional): mean cross-entropy in nats per token."
            ),
            features=datasets.Features({"predictions": token, "references": token}),
        )

    def _compute(self, predictions: list[int], references: list[int], loss: float | None = None) -> dict[str, float]:
        predicted, true = numpy.asarray(predictions), numpy.asarray(references)
        counted = true != IGNORED
        if not counted.any():
            raise ValueError("no token to score: every reference is -100.")
        quality = {"accuracy": float((predicted == true)[counted].mean())}
        if loss is not None:
            quality["perplexity"] = math.inf if loss > 700 else math.exp(loss)
        return quality
