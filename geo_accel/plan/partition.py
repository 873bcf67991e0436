# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Schedules that need no times: how a model's units are shared out over the steps of a period."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from geo_accel.plan.plan import Piece

Sets = tuple[tuple[Piece, ...], ...]
"""Per step of the period, what is sent there; empty where nothing is."""


def full(count: int, period: int) -> Sets:
    """All `count` units in the last step of the period: local SGD."""
    return contiguous([0] * (period - 1) + [count])


def equal(count: int, period: int) -> Sets:
    """Contiguous sets of equal numbers of units (ENP, arXiv:2502.11058): ceil(count / period) while they last."""
    size = -(-count // period)
    return contiguous([min(count, size * (step + 1)) for step in range(period)])


def contiguous(ends: Sequence[int]) -> Sets:
    """Whole units; `ends` are the past-the-last units of the sets."""
    return tuple(tuple(Piece(unit) for unit in range(first, stop)) for first, stop in pairwise([0, *ends]))


def stream(sizes: Sequence[int], period: int, rounds: int | None = None) -> Sets:
    """Bytes balanced over the period: the largest round is as small as contiguous sets allow.

    `rounds` sets (default: one per step), spread evenly over the period. Units larger than a sixteenth of a round are
    first cut into equal parts: a round may begin and end inside a layer, so that no layer's size sets the pace.
    Neighbouring parts of one round travel as one stretch, so fine cuts cost nothing.
    """
    rounds = min(rounds or period, period)
    grain = max(1, sum(sizes) // (rounds * 16))
    pieces = []
    for unit, size in enumerate(sizes):
        parts = max(1, -(-size // grain))
        pieces += [(Piece(unit, part, parts), size / parts) for part in range(parts)]
    sets = _min_max(pieces, rounds)
    starts: list[tuple[Piece, ...]] = [()] * period
    for i, members in enumerate(sets):
        starts[i * period // rounds] = tuple(members)
    return tuple(starts)


def _min_max(pieces: Sequence[tuple[Piece, float]], rounds: int) -> list[list[Piece]]:
    """Contiguous sets with the smallest possible largest sum: bisection on that sum, greedy filling."""
    ends = [0.0, *accumulate(size for _, size in pieces)]

    def fill(limit: float) -> list[int]:
        """Where sets begin and end that are as long as `limit` allows."""
        places = [0]
        while places[-1] < len(pieces):
            first = places[-1]
            places.append(max(first + 1, bisect_right(ends, ends[first] + limit, first + 1) - 1))
        return places

    low = max(size for _, size in pieces)
    high = ends[-1] / rounds + low  # enough: every set but the last one is then larger than the mean
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if len(fill(middle)) - 1 <= rounds else (middle, high)
    sets = [[piece for piece, _ in pieces[first:stop]] for first, stop in pairwise(fill(high * (1 + 1e-9)))]
    return sets + [[] for _ in range(rounds - len(sets))]
