# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which run comes next: each case is tried at every learning rate, then repeated with other seeds at its best."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.loss.cases import Case
from benchmarks.loss.store import Run

Loss = Callable[[Run], float | None]
"""A run's loss; None without a result."""

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


def grid(cases: Sequence[Case], base: Sequence[float], loss: Loss) -> tuple[float, ...]:
    """The learning rates for all `cases` of a group: `base`, wider where any case does best at an end of it."""
    return widened(base, ([loss(Run(case=case, rate=rate, seed=0)) for rate in base] for case in cases))


def best_rate(case: Case, rates: Sequence[float], loss: Loss) -> float | None:
    """The rate with the smallest loss for the first seed, among those that have results and did not diverge."""
    found = {rate: loss(Run(case=case, rate=rate, seed=0)) for rate in rates}
    known = {rate: value for rate, value in found.items() if value is not None and math.isfinite(value)}
    return min(known, key=known.__getitem__) if known else None


def wanted(
    cases: Sequence[Case], base: Sequence[float], seeds: int, loss: Loss, refused: Callable[[Case], bool]
) -> list[Run]:
    """The runs of one part that can be made now, first ones first; empty where all is done.

    First every case at every rate of `base`, then at what the grid is widened by, then the other seeds.
    """
    cases = [case for case in cases if not refused(case)]
    for rates in (tuple(base), grid(cases, base, loss)):
        runs = [Run(case=case, rate=rate, seed=0) for case in cases for rate in rates]
        missing = [run for run in runs if loss(run) is None]
        if missing:
            return missing
    return [run for run in _repetitions(cases, all_rates(base), seeds, loss) if loss(run) is None]


def _repetitions(cases: Sequence[Case], rates: Sequence[float], seeds: int, loss: Loss) -> Iterator[Run]:
    for case in cases:
        rate = best_rate(case, rates, loss)
        if rate is not None:
            yield from (Run(case=case, rate=rate, seed=seed) for seed in range(1, seeds))


def remaining(
    cases: Sequence[Case], base: Sequence[float], seeds: int, loss: Loss, refused: Callable[[Case], bool]
) -> int:
    """How many runs of a part are left, as far as is known: widening may add to them."""
    cases = [case for case in cases if not refused(case)]
    left = 0
    for case in cases:
        runs = [Run(case=case, rate=rate, seed=0) for rate in grid(cases, base, loss)]
        left += sum(loss(run) is None for run in runs)
        rate = best_rate(case, all_rates(base), loss)
        if rate is None:
            left += seeds - 1 if any(loss(run) is None for run in runs) else 0
        else:
            left += sum(loss(Run(case=case, rate=rate, seed=seed)) is None for seed in range(1, seeds))
    return left
