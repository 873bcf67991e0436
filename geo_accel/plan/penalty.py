# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a plan is expected to cost in loss: `penalty.json`, measured by `python -m benchmarks.loss`, shipped with us.

A penalty is the loss beside that of synchronous data parallelism, less 1, both at their own best learning rate. The
table was measured one axis at a time, so effects of period and outer step, codec, and delay are added up.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

from geo_accel.config.names import SPARSE_CHUNK
from geo_accel.config.parts import Outer
from geo_accel.plan.averaging import Averaging

_FILE = "penalty.json"
# Outer momentum blows up where it does not go with the period: it is used within this factor of a measured one only.
_REACH = 1.5

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyTable:
    """Measured penalties; see `penalty.json` for what, when and where."""

    by_period: dict[tuple[int, Outer], Points]
    """For a number of sites and an outer step: penalties (with their spread, for other steps than the mean) by period,
    int8, delay 1."""
    codecs: dict[str, float]
    """Of dense codecs, beside int8."""
    topk: Points
    """By share kept, beside int8."""
    delays: Points
    """By delay over period, beside delay 1."""
    large: dict[Outer, Points]
    """What outer steps cost beside the mean with a model ten times as large, by period; they gain where it is
    negative."""

    def expected(self, period: int, delay: int, averaging: Averaging, outer: Outer, sites: int) -> float:
        """The penalty of such a plan, as a share of the loss."""
        points = self.by_period.get((self._nearest(sites), outer)) or self.by_period[self._nearest(sites), Outer()]
        penalty = _at(math.log2(period), [(math.log2(one), value) for one, value in points])
        if averaging.sparse:
            share = sum(averaging.kept) / len(averaging.kept) / SPARSE_CHUNK
            penalty += _at(math.log(share), [(math.log(one), value) for one, value in self.topk])
        else:
            penalty += self.codecs[averaging.codec]
        return penalty + (_at(delay / period, self.delays) if delay > 1 else 0.0)

    def best_outer(self, period: int, sites: int) -> Outer:
        """The outer step with the smallest penalty at `period`; the mean unless another was clearly better nearby.

        Better with both models: what helps one may harm the other, and a plain mean harms none.
        """
        nearest, best = self._nearest(sites), Outer()
        least = self.expected(period, 1, Averaging(codec="int8"), best, sites)
        for (count, outer), points in self.by_period.items():
            if count != nearest or outer == Outer():
                continue
            nearby = _near(period, self.large.get(outer, ()))
            if _near(period, points) and nearby and max(nearby) < 0:
                penalty = self.expected(period, 1, Averaging(codec="int8"), outer, sites)
                if penalty < least:
                    least, best = penalty, outer
        return best

    def _nearest(self, sites: int) -> int:
        return min({count for count, _ in self.by_period}, key=lambda count: (abs(math.log(count / sites)), count))


def _near(period: int, points: Points) -> list[float]:
    """The values that were measured within reach of `period`."""
    return [value for one, value in points if abs(math.log(period / one)) <= math.log(_REACH)]


@cache
def penalties() -> PenaltyTable:
    """The table that the package ships."""
    found = json.loads(files("geo_accel.plan").joinpath(_FILE).read_text("utf-8"))
    by_period: dict[tuple[int, Outer], list[tuple[float, float]]] = {}
    for entry in found["base"]:
        outer = Outer(**entry["outer"])
        # Another step than the mean has to be better by more than chance.
        value = entry["penalty"] + (entry["spread"] or 0.0 if outer != Outer() else 0.0)
        by_period.setdefault((entry["sites"], outer), []).append((entry["period"], value))
    large: dict[Outer, list[tuple[float, float]]] = {}
    for entry in found["large"]:
        large.setdefault(Outer(**entry["outer"]), []).append((entry["period"], entry["beside_mean"]))
    codecs = dict(found["codec"])
    return PenaltyTable(
        by_period={key: tuple(sorted(points)) for key, points in by_period.items()},
        topk=tuple(sorted((share, extra) for share, extra in codecs.pop("topk"))),
        codecs=codecs,
        delays=tuple(sorted((share, extra) for share, extra in found["delay"])),
        large={outer: tuple(sorted(points)) for outer, points in large.items()},
    )


def _at(place: float, points: Sequence[tuple[float, float]]) -> float:
    """Piecewise linear through `points`; flat before the first, and after the last as steep as before, if it rises."""
    if place <= points[0][0]:
        return points[0][1]
    for (a, low), (b, high) in pairwise(points):
        if place <= b:
            return low + (high - low) * (place - a) / (b - a)
    if len(points) == 1:
        return points[0][1]
    (a, low), (b, high) = points[-2:]
    return high + max(0.0, (high - low) / (b - a)) * (place - b)
