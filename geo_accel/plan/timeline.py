# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The time model: what runs when under a plan, on one site.

One compute stream, one serial link; as docs/how-it-works.md says. Rounds wait for all sites, so the slowest link is
everyone's and one site stands for all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from geo_accel.config.names import Mode
from geo_accel.plan.cost import Cost, values_of
from geo_accel.plan.members import Members
from geo_accel.plan.plan import Plan
from geo_accel.profile.profile import Profile

_PERIODS = 4
"""Simulated; the last one is steady: what is in flight at its start is what is in flight at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that takes time. `track` is "step", "forward", "backward", "update", "transfer" or "wait"."""

    track: str
    name: str
    start: float
    stop: float
    step: int
    """Step in which it starts, from 0."""


@dataclass(slots=True, kw_only=True)
class Timeline:
    """Predicted course of some periods. Times in seconds from the first step's start."""

    period: int
    compute_s: float
    """A step without WAN."""
    spans: list[Span] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    """When each step ends."""
    exposed: list[float] = field(default_factory=list)
    """By step: seconds that it waits for the WAN."""

    @property
    def exposed_s_per_period(self) -> float:
        """Seconds of waiting in a steady period."""
        return sum(self.exposed[-self.period :])

    @property
    def step_s(self) -> float:
        """Mean seconds of a step in a steady period."""
        return (self.ends[-1] - self.ends[-1 - self.period]) / self.period

    @property
    def efficiency(self) -> float:
        """Step time without WAN over step time with the plan."""
        return self.compute_s / self.step_s

    def steady(self) -> list[Span]:
        """The spans of the last period, moved to begin at 0; transfers that reach into it included."""
        origin, end = self.ends[-1 - self.period], self.ends[-1]
        return [
            Span(track=s.track, name=s.name, start=s.start - origin, stop=s.stop - origin, step=s.step)
            for s in self.spans
            if s.stop > origin and s.start < end - 1e-9 * (end - origin)
        ]


def timeline(
    plan: Plan, profile: Profile, members: Members, periods: int = _PERIODS, *, spans: bool = True
) -> Timeline:
    """Runs `plan` between `members` through the time model.

    Raises ValueError where the profile lacks a unit of the plan or its link.

    Without `spans` it says how long steps take and wait, and not what happens in them, which takes most of the time.
    """
    cost = Cost.of(plan, profile, members)
    backward_s, ending_s, compute_s = profile.backward_s, profile.ending_s, profile.compute_s
    ready = _ready_times(plan, profile)
    result = Timeline(period=plan.period, compute_s=compute_s)
    durations = [[cost.round_s(pieces, plan.units) for pieces in step] for step in plan.rounds]
    sizes = [[values_of(pieces, plan.units) for pieces in step] for step in plan.rounds]
    values = [sum(step) for step in sizes]
    names = [[_name(pieces, plan.units) for pieces in step] for step in plan.rounds]

    now = free = 0.0  # of the training thread, of the link
    if plan.mode == Mode.STREAM and sum(map(sum, durations)) > plan.period * compute_s:
        # A link with more to do than time: in the end it is as late as waiting for it allows, so begin there.
        free = plan.delay * compute_s
    in_flight: list[tuple[int, float]] = []  # boundary at which a round is due, when its transfer ends
    for step in range(periods * plan.period):
        at = step % plan.period
        begin, waited = now, 0.0

        def span(track: str, name: str, start: float, stop: float, step: int = step) -> None:
            if spans:
                result.spans.append(Span(track=track, name=name, start=start, stop=stop, step=step))

        def send(number: int, earliest: float, at: int = at, span: Callable[..., None] = span) -> float:
            nonlocal free
            start = max(earliest, free)
            free = start + durations[at][number] + cost.reopening_s(sizes[at][number], start - free)
            span("transfer", names[at][number], start, free)
            return free

        def wait(until: float, name: str, span: Callable[..., None] = span) -> float:
            nonlocal now, waited
            if until > now:
                span("wait", name, now, until)
                waited += until - now
                now = until
            return now

        # What synchronising costs the training thread is spread over the step.
        now += compute_s - backward_s - ending_s + cost.handling.training_s * values[at]
        span("forward", "forward", begin, now)
        last_backward = now
        for unit, start, stop in ready.spans:
            span("backward", unit, last_backward + start, last_backward + stop)
        now += backward_s
        if plan.mode == Mode.BACKWARD:
            # In the order of the plan, each as soon as the last of its units is ready.
            for number, pieces in enumerate(plan.rounds[at]):
                send(number, last_backward + max(ready.by_unit[piece.unit] for piece in pieces))
            if plan.rounds[at]:
                wait(free, names[at][-1])
        span("update", "update", now, now + ending_s)
        now += ending_s
        if plan.mode == Mode.BLOCKING:
            for number, name in enumerate(names[at]):
                wait(send(number, now), name)
        elif plan.mode == Mode.STREAM:
            while in_flight and in_flight[0][0] <= step:
                wait(in_flight.pop(0)[1], "transfer")
            for number in range(len(durations[at])):
                in_flight.append((step + plan.delay, send(number, now)))
        span("step", f"step {step + 1}", begin, now)
        result.ends.append(now)
        result.exposed.append(waited)
    return result


@dataclass(frozen=True, slots=True)
class _Ready:
    """When gradients become ready, in seconds from the start of the last backward."""

    by_unit: list[float]
    """In the plan's numbering."""
    spans: list[tuple[str, float, float]]


def _ready_times(plan: Plan, profile: Profile) -> _Ready:
    stops = list(accumulate(unit.backward_s for unit in profile.units))
    by_name = {unit.name: stop for unit, stop in zip(profile.units, stops, strict=True)}
    missing = next((name for name, _ in plan.units if name not in by_name), None)
    if missing is not None:
        raise ValueError(f"plan: it is for another model: the profile has no unit {missing}.")
    spans = [(unit.name, stop - unit.backward_s, stop) for unit, stop in zip(profile.units, stops, strict=True)]
    return _Ready([by_name[name] for name, _ in plan.units], spans)


def _name(pieces: tuple, units: tuple[tuple[str, int], ...]) -> str:
    first, last = units[pieces[0].unit][0], units[pieces[-1].unit][0]
    return first if first == last else f"{first} .. {last}"
