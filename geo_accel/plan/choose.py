# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From what the user fixed and what was measured to a plan: the automatic choice over period, codec and delay.

Every candidate is run through the time model. Among those that cost training no more than `BUDGET` the one with the
smallest expected loss penalty is taken; where none does, the one that costs least, and its reason says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

from geo_accel.plan.cost import BYTES_PER_VALUE, Cost, exchange_for
from geo_accel.plan.dreamddp import exact, fill
from geo_accel.plan.partition import Sets, equal, full, stream
from geo_accel.plan.plan import Piece, Plan, Round
from geo_accel.plan.timeline import Timeline, timeline
from geo_accel.profile.profile import Profile

# Plans are made for a link that is this much of the measured one: links waver, and computing shares cores with them.
FILL = 0.85
# The share of a step that synchronising may cost where the period is ours to choose, waiting and computing together.
# Without overlap by whole steps the last units' transfers can hide behind nothing, and a tenth is what we accept.
BUDGET = {"stream": 0.04, "backward": 0.1, "blocking": 0.1}
LONGEST_PERIOD = 256
DEFAULT_SCHEDULES = {"stream": "stream", "backward": "dreamddp", "blocking": "full"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user fixed; "auto" where the choice is ours."""

    mode: str
    period: int | str = "auto"
    schedule: str = "auto"
    delay: int | str = "auto"
    codec: str = "auto"

    @property
    def resolved_schedule(self) -> str:
        return DEFAULT_SCHEDULES[self.mode] if self.schedule == "auto" else self.schedule

    @property
    def needs_measurement(self) -> bool:
        """Whether computing and links must be known before a plan can be made."""
        open_delay = self.mode == "stream" and self.delay == "auto"
        return "auto" in (self.period, self.codec) or open_delay or self.resolved_schedule == "dreamddp"


def choose_plan(
    request: Request, units: Sequence[tuple[str, int]], sites: int, profile: Profile | None = None
) -> Plan:
    """The plan for `units` (names and elements carried per rank, in backward order) over `sites` sites.

    `profile` is needed where `request.needs_measurement`; its units may come in another order. Raises ValueError for a
    profile of another model, or one that knows no link.
    """
    maker = _Maker(request=request, units=tuple(units), sites=sites, profile=profile)
    if not request.needs_measurement:
        delay = request.delay if request.mode == "stream" else 0
        return maker.plan(request.period, delay, request.codec, request.period, "as configured")
    assert profile is not None
    codecs = list(BYTES_PER_VALUE) if request.codec == "auto" else [request.codec]
    best = min((candidate for codec in codecs for candidate in maker.candidates(codec)), key=_order)
    return replace(best.plan, reason=_reason(best.plan, profile, timeline(best.plan, profile, sites)))


def _reason(plan: Plan, profile: Profile, course: Timeline) -> str:
    """For people, in one line."""
    exposed = course.exposed_s_per_period / plan.period
    hidden = "everything hides" if exposed < 1e-4 else f"{exposed:.3f} s per step stay exposed"
    link = profile.link
    where = f"link {link.megabits_per_second:.0f} Mbit/s and {link.latency_s * 1e3:.1f} ms" if link else "no link"
    longest = max((s.stop - s.start for s in course.steady() if s.track == "transfer"), default=0.0)
    return (
        f"step {profile.compute_s:.3f} s, {where}: longest transfer {longest:.3f} s, {hidden}, "
        f"predicted step {course.step_s:.3f} s"
    )


def _order(candidate: "_Candidate") -> tuple:
    """Within the budget first, by penalty; beyond it by cost.

    Until the loss benchmark has measured a penalty table: a shorter period, then a smaller delay, then more bits.
    """
    plan = candidate.plan
    penalty = (plan.period, plan.delay, -BYTES_PER_VALUE[plan.codec])
    # Beyond the budget a hundredth of a step decides, not less.
    return (0, *penalty) if candidate.within_budget else (1, round(candidate.share, 2), *penalty)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    plan: Plan
    course: Timeline

    @property
    def share(self) -> float:
        """Of a step's computing time that synchronising adds."""
        return self.course.step_s / self.course.compute_s - 1

    @property
    def within_budget(self) -> bool:
        return self.share <= BUDGET[self.plan.mode]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Makes plans for one request."""

    request: Request
    units: tuple[tuple[str, int], ...]
    sites: int
    profile: Profile | None

    def plan(self, period: int, delay: int, codec: str, rounds: int, reason: str = "") -> Plan:
        """One plan, with `rounds` rounds per period where the schedule is "stream"."""
        mode, schedule = self.request.mode, self.request.resolved_schedule
        if schedule == "dreamddp":
            steps = self._dreamddp(period, codec)
        else:
            sizes = [numel for _, numel in self.units]
            sets: Sets = {
                "full": lambda: full(len(sizes), period),
                "equal": lambda: equal(len(sizes), period),
                "stream": lambda: stream(sizes, period, rounds),
            }[schedule]()
            steps = tuple(self._as_rounds(members, codec) for members in sets)
        return Plan(
            mode=mode,
            schedule=schedule,
            period=period,
            delay=delay,
            codec=codec,
            exchange=exchange_for(self.sites),
            units=self.units,
            rounds=steps,
            reason=reason,
        )

    def candidates(self, codec: str) -> Iterator[_Candidate]:
        """For one codec: the smallest period within the budget, with the smallest delay; else the cheapest found."""
        careful = self._careful()
        cost = self._cost(codec, careful)
        period = self.request.period if self.request.period != "auto" else self._least_period(cost)
        while True:
            rounds = self._rounds_in(period, cost)
            for delay in self._delays(period, rounds, cost):
                plan = self.plan(period, delay, codec, rounds)
                candidate = _Candidate(plan=plan, course=timeline(plan, careful, self.sites))
                yield candidate
                if candidate.within_budget:
                    return
            if self.request.period != "auto" or period >= LONGEST_PERIOD:
                return
            period = min(LONGEST_PERIOD, max(period + 1, int(period * 1.1)))

    def _cost(self, codec: str, profile: Profile) -> Cost:
        return Cost(profile=profile, codec=codec, exchange=exchange_for(self.sites), sites=self.sites)

    def _careful(self) -> Profile:
        """The profile over links of which only `FILL` counts."""
        links = tuple(
            (site, replace(link, seconds_per_byte=link.seconds_per_byte / FILL)) for site, link in self.profile.links
        )
        units = tuple(
            replace(unit, transfer_s=None if unit.transfer_s is None else unit.transfer_s / FILL)
            for unit in self.profile.units
        )
        return replace(self.profile, links=links, units=units)

    def _least_period(self, cost: Cost) -> int:
        """No shorter period can be within the budget: neither the link nor the training thread would have time."""
        budget = BUDGET[self.request.mode]
        if self.profile.link is None:
            return 1
        window = self.profile.compute_s * (1 + budget)
        if self.request.mode != "stream":
            window = self.profile.compute_s * budget + (self.request.mode == "backward") * self.profile.backward_s
        values = sum(numel for _, numel in self.units)
        least = cost.seconds(values) / window
        least = max(least, cost.handling.training_s * values / (budget * self.profile.compute_s))
        if self.request.mode == "stream" and self.request.delay != "auto":
            least = max(least, self.request.delay)
        return min(LONGEST_PERIOD, max(1, ceil(least - 1e-9)))

    def _rounds_in(self, period: int, cost: Cost) -> int:
        """As many rounds as their latencies leave room for, or cost a tenth."""
        if self.request.mode != "stream" or self.profile.link is None:
            return period
        values = sum(numel for _, numel in self.units)
        latency = cost.messages * self.profile.link.latency_s
        transfer = cost.seconds(values) - latency
        room = max(period * self.profile.compute_s - transfer, 0.1 * transfer)
        return max(1, int(room / latency)) if latency > room / period else period

    def _delays(self, period: int, rounds: int, cost: Cost) -> Iterator[int]:
        if self.request.mode != "stream":
            yield 0
        elif self.request.delay != "auto":
            yield self.request.delay
        else:
            values = sum(numel for _, numel in self.units)
            first = 1
            if self.profile.link is not None:
                first = ceil(cost.seconds(values / min(rounds, period)) / self.profile.compute_s - 1e-9)
            first = min(period, max(1, first))
            # The estimate may be short where rounds queue behind one another.
            yield from range(first, min(period, first + 2) + 1)

    def _dreamddp(self, period: int, codec: str) -> tuple[tuple[Round, ...], ...]:
        """DreamDDP's partition of the units in the order in which they were seen to become ready, bubbles filled."""
        cost = self._cost(codec, self.profile)
        places = {name: unit for unit, (name, _) in enumerate(self.units)}
        backward = {unit.name: unit.backward_s for unit in self.profile.units}
        missing = next((name for name in places if name not in backward), None)
        if missing is not None:
            raise ValueError(f"profile: it is for another model: it has no unit {missing}.")
        order = [Piece(places[name]) for name in backward if name in places]
        bundles = self._bundles(order, codec)
        transfers = [cost.round_s(members, self.units) for members in bundles]
        computing = [sum(backward[self.units[piece.unit][0]] for piece in members) for members in bundles]
        ends = exact(transfers, computing, period)
        if self.request.mode == "backward":
            return tuple(bundles[first:stop] for first, stop in fill(transfers, computing, ends))
        sets = [bundles[first:stop] for first, stop in zip([0, *ends], ends, strict=False)]
        return tuple((tuple(piece for members in bundle for piece in members),) if bundle else () for bundle in sets)

    def _as_rounds(self, pieces: Sequence[Piece], codec: str) -> tuple[Round, ...]:
        """What one step sends, as rounds: one, or in mode "backward" as many as there are bundles."""
        if not pieces:
            return ()
        return self._bundles(pieces, codec) if self.request.mode == "backward" else (tuple(pieces),)

    def _bundles(self, pieces: Sequence[Piece], codec: str) -> tuple[Round, ...]:
        """Single units, or several together until their bytes take as long as a round's latency.

        A unit that latency rules would only make the others wait. Measured transfer times are of single units and
        leave them alone.
        """
        link = self.profile.link if self.profile is not None else None
        if link is None:
            return tuple((piece,) for piece in pieces)
        cost = self._cost(codec, self.profile)
        latency = cost.messages * link.latency_s
        rounds: list[list[Piece]] = []
        last = -inf  # seconds that the bytes of the round at the end take
        for piece in pieces:
            seconds = cost.round_s([piece], self.units) - latency
            if rounds and last < latency:
                rounds[-1].append(piece)
                last += seconds
            else:
                rounds.append([piece])
                last = seconds
        return tuple(tuple(members) for members in rounds)
