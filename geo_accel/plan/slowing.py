# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What rounds turn out to take from training on processors that they share with it.

The first estimate comes from a moment beside a transfer, which on busy cores says anything from a third to three times
the truth. A running plan tells better, in the end: steps at whose start a round began, beside those that had the
processor for themselves. Steps differ by more than a round takes, so evidence is gathered over intervals and weighed
against the first estimate by what each can be trusted.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from geo_accel.config.names import Mode
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.cost import BYTES_PER_VALUE, values_of
from geo_accel.plan.plan import Plan
from geo_accel.profile.profile import Handling, Profile

_LEAST_STEPS = 3
"""Of either kind: fewer say nothing."""
# A standard deviation is so many median deviations, and a median so much less certain than a mean.
_PER_MEDIAN_DEVIATION, _OF_A_MEDIAN = 1.48, 1.25
# How far the first estimate may be off, as a share of itself.
_DOUBT = 1.0
# What an estimate loses is bounded: so much of it stays.
_LEAST_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a rank, in seconds; waiting for the WAN is not counted."""

    seconds: float
    between_s: float
    """What the training thread did for rounds before it began."""
    beside: bool
    """Whether a round began then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """One rank's steps in an interval, in seconds, waiting for the WAN not counted."""

    quiet: tuple[float, ...]
    """Those at whose start no round began."""
    beside: tuple[float, ...]
    """Those at whose start one did."""
    between_s: float = 0.0
    """What the training thread did between steps for a round, beginning and applying it: mean over rounds."""

    @classmethod
    def of(cls, steps: Collection[Step]) -> "Steps":
        beside = tuple(step.seconds for step in steps if step.beside)
        return cls(
            quiet=tuple(step.seconds for step in steps if not step.beside),
            beside=beside,
            between_s=sum(step.between_s for step in steps) / max(1, len(beside)),
        )

    @property
    def step_s(self) -> float:
        """A step without rounds, as far as any was seen."""
        return median(self.quiet if len(self.quiet) >= _LEAST_STEPS else self.quiet + self.beside)


class Slowing:
    """What rounds were seen to take so far, kept where plans are made."""

    def __init__(self) -> None:
        self._first: dict[str, Handling] = {}
        """By codec, what was estimated before it ran."""
        self._evidence: dict[Averaging, _Evidence] = {}

    def handling(self, plan: Plan, profile: Profile, ranks: Sequence[Steps]) -> dict[str, Handling] | None:
        """What handling a value costs, by codec, now that another interval was seen under `plan`.

        `profile` is what the plan was made from, `ranks` what each has seen. None where that cannot be said. The other
        dense codecs change by as much per byte as a dense one.
        """
        averaging, handling = plan.averaging, profile.handling
        mine = averaging.codec
        if plan.mode != Mode.STREAM or mine not in handling or handling[mine].training_s <= 0:
            return None
        first = self._first.setdefault(mine, handling[mine]).training_s
        evidence = self._evidence.setdefault(averaging, _Evidence())
        evidence.add(values_per_round(plan), ranks)
        between = max(one.between_s for one in ranks) / values_per_round(plan)
        now = between + evidence.estimate(max(first - between, _LEAST_SHARE * first))
        now = max(now, _LEAST_SHARE * first)
        found = dict(handling)
        if mine in BYTES_PER_VALUE:
            change = (now - handling[mine].training_s) / BYTES_PER_VALUE[mine]
            for codec in BYTES_PER_VALUE.keys() & handling.keys():
                cost = handling[codec].training_s
                changed = max(cost + change * BYTES_PER_VALUE[codec], _LEAST_SHARE * cost)
                found[codec] = replace(handling[codec], training_s=changed)
        found[mine] = replace(handling[mine], training_s=now)
        return found


@dataclass(slots=True)
class _Evidence:
    """Of a straight line through 0, from values that a round sends to seconds by which the step is longer."""

    weighted: float = 0.0
    """Seconds times values over the variance of the seconds, summed over intervals."""
    weight: float = 0.0
    """Values squared, likewise."""

    def add(self, values: float, ranks: Sequence[Steps]) -> None:
        """Ranks wait for each other, so that what slows one is no news from another."""
        if all(min(len(one.quiet), len(one.beside)) >= _LEAST_STEPS for one in ranks):
            longer = fmean(median(one.beside) - median(one.quiet) for one in ranks)
            variance = max(fmean(map(_variance, ranks)), 1e-12)
            self.weighted += longer * values / variance
            self.weight += values * values / variance

    def estimate(self, first: float) -> float:
        """Seconds per value, where they were taken for `first`; never below 0."""
        certain = 1 / (_DOUBT * max(first, 1e-12)) ** 2
        return max(0.0, (self.weighted + first * certain) / (self.weight + certain))


def values_per_round(plan: Plan) -> float:
    """Values that a step sends, of those that send any."""
    sizes = [sum(values_of(members, plan.units) for members in step) for step in plan.rounds if step]
    return fmean(sizes)


def _variance(steps: Steps) -> float:
    """Of the difference between the two medians."""
    kinds = [(one, median(one)) for one in (steps.quiet, steps.beside)]
    deviation = median(abs(step - middle) for kind, middle in kinds for step in kind)
    one_step = (_PER_MEDIAN_DEVIATION * _OF_A_MEDIAN * deviation) ** 2
    return sum(one_step / len(kind) for kind, _ in kinds)
