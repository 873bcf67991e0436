# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The outer optimizer: from what the sites agreed on to the next anchor."""

import torch

from geo_accel.config.parts import Outer


class OuterStep:
    """SGD with Nesterov momentum on the negative agreed change, as in DiLoCo (arXiv:2311.08105).

    Plans say by which `Outer`; the velocity lives on from plan to plan. Plain averaging needs none and has none.
    """

    def __init__(self, size: int) -> None:
        """`size` is the length of one rank's carried vector."""
        self._size = size
        self.velocity: torch.Tensor | None = None
        """Flat fp32 of that length, saved in checkpoints; None while no plan had a momentum."""

    def step(self, outer: Outer, agreed: torch.Tensor, lo: int, hi: int) -> torch.Tensor:
        """The change of anchor elements [lo, hi) for what was `agreed` (flat fp32), the same bits on every site."""
        if outer.momentum == 0:
            return agreed.mul(outer.lr)
        if self.velocity is None:
            self.velocity = torch.zeros(self._size, dtype=torch.float32, device="cpu")
        velocity = self.velocity[lo:hi].mul_(outer.momentum).add_(agreed)
        return agreed.add(velocity, alpha=outer.momentum).mul_(outer.lr)

    def forget(self) -> None:
        """Ends all motion: the next step begins as the first did."""
        if self.velocity is not None:
            self.velocity.zero_()
