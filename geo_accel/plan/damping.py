# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Protection against an outer step that raises the loss: it is seen, and the step made smaller."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from geo_accel.config.parts import Outer

# The loss has risen if it is higher than before by more than this share and so many standard errors.
_RISE = 0.01
_ERRORS = 3.0
_SMALLEST_MOMENTUM = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The training loss over an interval."""

    mean: float
    error: float
    """Its standard error."""


def pooled(seen: Sequence[tuple[int, float, float]]) -> Loss | None:
    """All ranks' counts, means and standard errors as one; None where some rank saw no loss."""
    if not seen or not all(count for count, _, _ in seen):
        return None
    ranks = len(seen)
    return Loss(
        mean=sum(mean for _, mean, _ in seen) / ranks, error=math.hypot(*(error for _, _, error in seen)) / ranks
    )


def has_risen(before: Loss, now: Loss) -> bool:
    """Whether the loss is higher than it was, beyond noise."""
    if not math.isfinite(now.mean):
        return True
    rise = now.mean - before.mean
    return rise > _RISE * abs(before.mean) and rise > _ERRORS * math.hypot(before.error, now.error)


def damped(outer: Outer) -> Outer:
    """Half the momentum, and a learning rate halfway to 1; plain averaging once little is left."""
    momentum = outer.momentum / 2
    if momentum < _SMALLEST_MOMENTUM and abs(outer.lr - 1) < 0.3:
        return Outer()
    return Outer(lr=(outer.lr + 1) / 2, momentum=momentum if momentum >= _SMALLEST_MOMENTUM else 0.0)
