# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Every method at its own best learning rate: one grid for all, tried with the first seed, wider where it must be."""

import math
from collections.abc import Callable, Iterable, Sequence

from benchmarks.kit.job import Job

Loss = Callable[[Job], float | None]
"""A job's loss; None without a result."""
Make = Callable[[float, int], Job]
"""A method's job at a learning rate, with a seed."""

# A rate at an end of the grid is the best one only if it beats its neighbour by more than this share.
_TELLING = 0.002


def all_rates(base: Sequence[float]) -> tuple[float, ...]:
    """The grid with both of the values it can be widened by."""
    return (base[0] / 2, *base, base[-1] * 2)


def widened(base: Sequence[float], tried: Iterable[Sequence[float | None]]) -> tuple[float, ...]:
    """`base`, with one value more on a side where any method does best at that end.

    `tried` has each method's losses at `base`; one with a None among them has no say yet.
    """
    low = high = False
    for losses in tried:
        if None in losses:
            continue
        best = min(losses)
        low = low or (losses[0] == best and best < losses[1] * (1 - _TELLING))
        high = high or (losses[-1] == best and best < losses[-2] * (1 - _TELLING))
    wide = all_rates(base)
    return wide[0 if low else 1 : len(wide) if high else -1]


def grid(methods: Sequence[Make], base: Sequence[float], loss: Loss) -> tuple[float, ...]:
    """The learning rates for all `methods`: `base` first, then what it is widened by."""
    wide = widened(base, ([loss(make(rate, 0)) for rate in base] for make in methods))
    return (*base, *(rate for rate in wide if rate not in base))


def best_rate(make: Make, base: Sequence[float], loss: Loss) -> float | None:
    """The rate with the smallest loss for the first seed, among those that have results and did not diverge."""
    found = {rate: loss(make(rate, 0)) for rate in all_rates(base)}
    known = {rate: value for rate, value in found.items() if value is not None and math.isfinite(value)}
    return min(known, key=known.__getitem__) if known else None


def search(methods: Sequence[Make], base: Sequence[float], seeds: int, loss: Loss) -> list[Job]:
    """The jobs that are known so far, first ones first; results decide about further ones.

    First every method at every rate of `base`, then at what the grid is widened by, then the other seeds at each
    method's best.
    """
    rates = grid(methods, base, loss)
    jobs = [make(rate, 0) for some in (rates[: len(base)], rates[len(base) :]) for make in methods for rate in some]
    if any(loss(job) is None for job in jobs):
        return jobs
    best = [(make, rate) for make in methods if (rate := best_rate(make, base, loss)) is not None]
    return [*jobs, *(make(rate, seed) for make, rate in best for seed in range(1, seeds))]
