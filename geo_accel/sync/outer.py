# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The outer optimizer: from what the sites agreed on to the next anchor."""

from typing import Protocol

import torch


class OuterStep(Protocol):
    state: torch.Tensor | None
    """Flat fp32 of one rank's carried length, saved in checkpoints; None for a step without memory."""

    def step(self, mean: torch.Tensor, lo: int, hi: int) -> torch.Tensor:
        """The change of anchor elements [lo, hi) for the agreed `mean` (flat fp32), the same bits on every site."""


class Mean:
    """Plain averaging: the anchor becomes the mean of the sites."""

    state = None

    def step(self, mean: torch.Tensor, lo: int, hi: int) -> torch.Tensor:
        return mean


class Nesterov:
    """SGD with Nesterov momentum on the negative mean change, as in DiLoCo (arXiv:2311.08105)."""

    def __init__(self, size: int, lr: float, momentum: float) -> None:
        self.state = torch.zeros(size)
        self._lr = lr
        self._momentum = momentum

    def step(self, mean: torch.Tensor, lo: int, hi: int) -> torch.Tensor:
        velocity = self.state[lo:hi].mul_(self._momentum).add_(mean)
        return mean.add(velocity, alpha=self._momentum).mul_(self._lr)
