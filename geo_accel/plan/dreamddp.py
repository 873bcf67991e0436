# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""DreamDDP's partition (arXiv:2502.11058): which contiguous set of units is sent in which step of the period.

Sent inside backward, a set starts as its units' gradients become ready and should end before backward does. All
functions take `transfers` and `backward`, seconds by unit in backward order, and give `ends`: the past-the-last unit
of each of the `period` sets.
"""

import math
from collections.abc import Sequence
from itertools import accumulate


def exposed(transfers: Sequence[float], backward: Sequence[float], ends: Sequence[int]) -> float:
    """Seconds per period by which the sets' transfers outlast backward: the paper's objective without its constant."""
    ready, total = list(accumulate(backward)), sum(backward)
    start, over = 0, 0.0
    for end in ends:
        free = 0.0
        for unit in range(start, end):
            free = max(free, ready[unit]) + transfers[unit]
        over += max(0.0, free - total)
        start = end
    return over


def exact(transfers: Sequence[float], backward: Sequence[float], period: int) -> list[int]:
    """The optimum, by dynamic programming over contiguous partitions, O(period * units^2); sets may be empty.

    With C the sums of transfers and P the times at which gradients are ready, units i..j sent together end at
    C_j + max over k in i..j of (P_k - C_(k-1)). Extending a set downwards never shortens it, and covering fewer units
    with the other steps never costs more; the inner search stops as soon as the set alone costs as much as the best.
    """
    units, total = len(transfers), sum(backward)
    ready = list(accumulate(backward))
    sums = [0.0, *accumulate(transfers)]
    # over[j][j - i - 1]: what the set of units i..j-1 exposes, for growing sets.
    over = []
    for stop in range(1, units + 1):
        latest, costs = -math.inf, []
        for first in range(stop - 1, -1, -1):
            latest = max(latest, ready[first] - sums[first])
            costs.append(max(0.0, sums[stop] + latest - total))
        over.append(costs)
    best = [0.0] + [costs[stop] for stop, costs in enumerate(over)]  # one step: everything in one set
    choices = [[0] * (units + 1)]
    for _ in range(period - 1):
        if best[units] == 0.0:
            break  # nothing is exposed: further steps stay empty
        row, choice = [0.0] * (units + 1), [0] * (units + 1)
        for stop in range(1, units + 1):
            value, at = best[stop], stop  # this step sends nothing
            for count, cost in enumerate(over[stop - 1], start=1):
                if cost >= value:
                    break
                candidate = best[stop - count] + cost
                if candidate < value:
                    value, at = candidate, stop - count
            row[stop], choice[stop] = value, at
        best = row
        choices.append(choice)
    ends, stop = [], units
    for choice in reversed(choices):
        ends.append(stop)
        stop = choice[stop]
    return ends[::-1] + [units] * (period - len(ends))


def search(transfers: Sequence[float], backward: Sequence[float], period: int) -> list[int]:
    """The paper's pruned depth-first search, kept as a reference: O(2^min(units - period, period)) leaves.

    Every set has at least one unit. Raises ValueError where there are fewer units than steps.
    """
    units = len(transfers)
    if units < period:
        raise ValueError(f"search: {units} units do not give {period} steps one each.")
    ready, total = list(accumulate(backward)), sum(backward)
    best: tuple[float, list[int]] = (math.inf, [])

    def one_left_for_each(unit: int, sets: int) -> bool:
        """Property 3: at least one layer per set."""
        return units - unit >= sets

    def must_add(end: float) -> bool:
        """Property 1, optimal hiding: a layer that still hides completely joins the set."""
        return end <= total

    def must_push(end: float) -> bool:
        """Property 2, delayed overflow: a set that overflows already takes no further layer."""
        return end > total

    def descend(ends: list[int], first: int, unit: int, free: float, spent: float) -> None:
        """Set number len(ends) holds units first..unit-1 and its transfers end at `free`."""
        nonlocal best
        left = period - len(ends) - 1  # sets after this one
        if left == 0:  # the last set takes what remains
            for last in range(unit, units):
                free = max(free, ready[last]) + transfers[last]
            cost = spent + max(0.0, free - total)
            if cost < best[0]:
                best = (cost, [*ends, units])
            return

        def push() -> None:
            descend([*ends, unit], unit, unit, 0.0, spent + max(0.0, free - total))

        if unit == first:  # Property 3 again: the set needs a first unit
            descend(ends, first, unit + 1, max(free, ready[unit]) + transfers[unit], spent)
            return
        if must_push(free) or not one_left_for_each(unit + 1, left):
            push()
            return
        end = max(free, ready[unit]) + transfers[unit]
        descend(ends, first, unit + 1, end, spent)
        if not must_add(end):
            push()

    descend([], 0, 0, 0.0, 0.0)
    return best[1]


def fill(transfers: Sequence[float], backward: Sequence[float], ends: Sequence[int]) -> list[tuple[int, int]]:
    """Bubble filling: for each set the units (first, past-the-last) that its step sends in the end.

    A set whose transfers end before backward does takes the longest run of the following units that still hides;
    those are synchronised more often than once per period, and no time is exposed for it.
    """
    ready, total = list(accumulate(backward)), sum(backward)
    filled, start = [], 0
    for end in ends:
        free = 0.0
        for unit in range(start, end):
            free = max(free, ready[unit]) + transfers[unit]
        stop = end
        while stop < len(transfers) and max(free, ready[stop]) + transfers[stop] <= total:
            free = max(free, ready[stop]) + transfers[stop]
            stop += 1
        filled.append((start, stop))
        start = end
    return filled
