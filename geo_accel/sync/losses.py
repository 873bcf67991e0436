# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Watching the training loss, which tells whether the outer step does good."""

from collections.abc import Mapping

import torch
from torch import nn


class LossWatch:
    """Collects the loss that the model returns in training, as Hugging Face's models do when they are given labels.

    A few operations on scalars per forward, on the loss's device; nothing waits for them until `take`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._sums: torch.Tensor | None = None
        self._handle = model.register_forward_hook(self._see)

    def take(self) -> tuple[int, float, float]:
        """How many losses there were since the last call, their mean and its standard error; 0 of each for none."""
        if self._sums is None:
            return 0, 0.0, 0.0
        count, total, squares = self._sums.tolist()
        self._sums = None
        mean = total / count
        return int(count), mean, (max(0.0, squares / count - mean * mean) / count) ** 0.5

    def remove(self) -> None:
        """Takes the hook away."""
        self._handle.remove()

    def _see(self, model: nn.Module, inputs: object, output: object) -> None:
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if model.training and isinstance(loss, torch.Tensor) and loss.numel() == 1:
            loss = loss.detach().double().reshape(())
            seen = torch.stack([torch.ones_like(loss), loss, loss * loss])
            self._sums = seen if self._sums is None else self._sums + seen
