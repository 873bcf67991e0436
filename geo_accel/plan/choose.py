# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From what the user fixed and what was measured to a plan: the automatic choice over period, codec, delay and more.

Every candidate is run through the time model. Among those that cost training no more than `BUDGET` the one with the
smallest expected loss penalty (`penalty.py`) is taken; where none does, the one that costs least, and its reason says
so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

from geo_accel.config.names import AUTO, SPARSE_CHUNK, SPARSE_CODECS, Mode, Schedule
from geo_accel.config.parts import Outer
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.cost import Cost, bytes_per_value
from geo_accel.plan.dreamddp import exact, fill
from geo_accel.plan.members import Members
from geo_accel.plan.partition import Sets, equal, full, stream
from geo_accel.plan.penalty import penalties
from geo_accel.plan.plan import Piece, Plan, Round
from geo_accel.plan.request import BUDGET, Request
from geo_accel.plan.sending import Sending
from geo_accel.plan.timeline import Timeline, timeline
from geo_accel.profile.link import LONG_LATENCY_S
from geo_accel.profile.profile import Profile

# Plans are made for a link that is this much of the measured one: links waver, and computing shares cores with them.
FILL = 0.85
_LOSSY_FILL = 0.5
"""The same where packets are lost, and what passes differs from round to round."""
LONGEST_PERIOD = 256
# What a sparse codec keeps at least, of all values, where the ratio and the period are ours to choose.
_LEAST_SHARE = 0.01


def choose_plan(
    request: Request, units: Sequence[tuple[str, int]], members: Members, profile: Profile | None = None
) -> Plan:
    """The plan for `units` (names and elements carried per rank, in backward order) between `members`.

    `profile` is needed where `request.needs_measurement`; its units may come in another order. Raises ValueError for a
    profile of another model, or one that knows no link.
    """
    maker = _Maker(request=request, units=tuple(units), members=members, profile=profile)
    if not request.needs_measurement:
        period, delay = request.period, request.delay if request.mode == Mode.STREAM else 0
        assert period != AUTO and delay != AUTO  # they would need a measurement
        averaging = maker.sending.averaging(request.codec, period)
        return maker.plan(period, delay, averaging, period, "as configured")
    assert profile is not None
    best: _Candidate | None = None
    first = {codec: maker.first_period(codec) for codec in request.codecs}
    for bound, codec in sorted((maker.least_penalty(codec, first[codec]), codec) for codec in request.codecs):
        # Running plans are reviewed while training goes on and waits: what cannot be chosen is not looked at.
        if best is None or not best.within_budget or _rounded(bound) <= _rounded(best.penalty):
            best = min(filter(None, (best, *maker.candidates(codec, first[codec]))), key=_order)
    assert best is not None  # every codec has a candidate
    return replace(best.plan, reason=_reason(best.plan, profile, timeline(best.plan, profile, members)))


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
    """Within the budget by penalty, then the smallest period and delay and the most bits; beyond it by cost."""
    plan = candidate.plan
    penalty = (_rounded(candidate.penalty), plan.period, plan.delay, -bytes_per_value(plan.averaging))
    return (0, *penalty) if candidate.within_budget else (1, round(candidate.share, 2), *penalty)


def _rounded(penalty: float) -> float:
    """Beyond a hundredth of a percent of loss, figures are noise."""
    return round(penalty, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    plan: Plan
    course: Timeline
    sites: int

    @property
    def penalty(self) -> float:
        """Of the loss, as far as the table knows."""
        plan = self.plan
        return penalties().expected(plan.period, plan.delay, plan.averaging, plan.outer, self.sites)

    @property
    def share(self) -> float:
        """Of a step's computing time that synchronising adds."""
        return self.course.step_s / self.course.compute_s - 1

    @property
    def within_budget(self) -> bool:
        return self.share <= BUDGET[self.plan.mode]


def _longer(period: int) -> int:
    """The next one to try."""
    return min(LONGEST_PERIOD, max(period + 1, int(period * 1.1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Makes plans for one request."""

    request: Request
    units: tuple[tuple[str, int], ...]
    members: Members
    profile: Profile | None

    @property
    def sites(self) -> int:
        """How many there are."""
        return len(self.members)

    @property
    def sending(self) -> Sending:
        values = sum(numel for _, numel in self.units)
        return Sending(request=self.request, values=values, members=self.members)

    @property
    def _measured(self) -> Profile:
        """The profile, which is there wherever something is left to choose."""
        assert self.profile is not None
        return self.profile

    def plan(self, period: int, delay: int, averaging: Averaging, rounds: int, reason: str = "") -> Plan:
        """One plan, with `rounds` rounds per period where the schedule is "stream"."""
        mode, schedule = self.request.mode, self.request.resolved_schedule
        if schedule == Schedule.DREAMDDP:
            steps = self._dreamddp(period, averaging)
        else:
            sizes = [numel for _, numel in self.units]
            sets: Sets = {
                Schedule.FULL: lambda: full(len(sizes), period),
                Schedule.EQUAL: lambda: equal(len(sizes), period),
                Schedule.STREAM: lambda: stream(sizes, period, rounds),
            }[schedule]()
            steps = tuple(self._as_rounds(pieces, averaging) for pieces in sets)
        return Plan(
            sites=self.members.names,
            generation=self.members.generation,
            mode=mode,
            schedule=schedule,
            period=period,
            delay=delay,
            averaging=averaging,
            outer=self._outer(period),
            units=self.units,
            rounds=steps,
            reason=reason,
        )

    def candidates(self, codec: str, period: int) -> Iterator[_Candidate]:
        """For one codec, from its first `period` on: the smallest within the budget, with the smallest delay; else the
        cheapest found.

        Longer periods follow where they may cost less loss: with an outer step, or with more values of a sparse codec.
        """
        careful = self._careful()
        first = None
        while True:
            for candidate in self._with_delays(codec, period, careful):
                yield candidate
                if candidate.within_budget and self._keeps_enough(candidate.plan):
                    first = candidate
                    break
            if first is not None or self.request.period != AUTO or period >= LONGEST_PERIOD:
                break
            period = _longer(period)
        if first is None or self.request.period != AUTO or self.request.outer != AUTO:
            return
        for longer in (2 * period, 4 * period, 8 * period):
            gains = codec in SPARSE_CODECS or self._outer(longer) != Outer()
            if longer <= LONGEST_PERIOD and gains:
                yield from self._with_delays(codec, longer, careful)

    def least_penalty(self, codec: str, period: int) -> float:
        """No candidate of `codec`, from `period` on, is expected to cost less loss."""
        kept = () if codec not in SPARSE_CODECS else (SPARSE_CHUNK,) * self.sites
        averaging, table, periods = Averaging(codec=codec, kept=kept), penalties(), [period]
        while self.request.period == AUTO and periods[-1] < LONGEST_PERIOD:
            periods.append(_longer(periods[-1]))
        return min(table.expected(one, 1, averaging, self._outer(one), self.sites) for one in periods)

    def first_period(self, codec: str) -> int:
        """The fixed one, or the shortest that can be within the budget."""
        fixed = self.request.period
        return fixed if fixed != AUTO else self._least_period(codec, self._careful())

    def _with_delays(self, codec: str, period: int, careful: Profile) -> Iterator[_Candidate]:
        averaging = self.sending.averaging(codec, period, careful)
        cost = self.sending.cost(averaging, careful)
        rounds = self.sending.rounds_in(period, cost)
        for delay in self._delays(period, rounds, cost):
            plan = self.plan(period, delay, averaging, rounds)
            candidate = _Candidate(
                plan=plan, course=timeline(plan, careful, self.members, spans=False), sites=self.sites
            )
            yield candidate
            if candidate.within_budget:
                return

    def _keeps_enough(self, plan: Plan) -> bool:
        """Whether a longer period would not serve a sparse codec better."""
        kept = plan.averaging.kept
        return not kept or self.request.ratio != AUTO or min(kept) >= _LEAST_SHARE * SPARSE_CHUNK

    def _outer(self, period: int) -> Outer:
        if self.request.outer != AUTO:
            return self.request.outer
        # The penalties of outer steps were measured under streaming; elsewhere the plain average is what is published.
        return penalties().best_outer(period, self.sites) if self.request.mode == Mode.STREAM else Outer()

    def _careful(self) -> Profile:
        """The profile over links of which only `FILL` counts."""
        links = tuple(
            (site, link.slower(1 / (_LOSSY_FILL if link.loses else FILL))) for site, link in self._measured.links
        )
        units = tuple(
            replace(unit, transfer_s=None if unit.transfer_s is None else unit.transfer_s / FILL)
            for unit in self._measured.units
        )
        return replace(self._measured, links=links, units=units)

    def _least_period(self, codec: str, careful: Profile) -> int:
        """No shorter period can be within the budget: neither the link nor the training thread would have time."""
        if careful.link is None:
            return 1
        cost = self.sending.cost(self.sending.averaging(codec, LONGEST_PERIOD, careful), careful)
        least = cost.handling.training_s * self.sending.values / (BUDGET[self.request.mode] * careful.compute_s)
        if not (codec in SPARSE_CODECS and self.request.ratio == AUTO):
            least = max(least, cost.seconds(self.sending.values) / self.sending.window(careful))
        if self.request.mode == Mode.STREAM:
            least = max(least, self._spare_delay if self.request.delay == AUTO else self.request.delay)
        return min(LONGEST_PERIOD, max(1, ceil(least - 1e-9)))

    @property
    def _spare_s(self) -> float:
        """Seconds that a round is let be late: where packets are lost, a timeout; on a long line, where a window that
        was not quite open costs part of a round trip, half of one."""
        link = self._measured.link
        if link is None or not (link.loses or link.latency_s >= LONG_LATENCY_S):
            return 0.0
        return link.timeout_s if link.loses else link.latency_s / 2

    @property
    def _spare_delay(self) -> int:
        """The delay that a round needs at least for that."""
        link, spare_s = self._measured.link, self._spare_s
        return ceil((spare_s + link.latency_s) / self._measured.compute_s) if link is not None and spare_s else 0

    def _delays(self, period: int, rounds: int, cost: Cost) -> Iterator[int]:
        if self.request.mode != Mode.STREAM:
            yield 0
        elif self.request.delay != AUTO:
            yield self.request.delay
        else:
            first = 1
            if self._measured.link is not None:
                seconds = cost.seconds(self.sending.values / rounds) + self._spare_s
                first = ceil(seconds / self._measured.compute_s - 1e-9)
            if self._spare_s and first > period < LONGEST_PERIOD and self.request.period == AUTO:
                return  # a longer period has room for what may be late
            first = min(period, max(1, first))
            # The estimate may be short where rounds queue behind one another.
            yield from range(first, min(period, first + 2) + 1)

    def _dreamddp(self, period: int, averaging: Averaging) -> tuple[tuple[Round, ...], ...]:
        """DreamDDP's partition of the units in the order in which they were seen to become ready, bubbles filled."""
        cost = self.sending.cost(averaging, self._measured)
        places = {name: unit for unit, (name, _) in enumerate(self.units)}
        backward = {unit.name: unit.backward_s for unit in self._measured.units}
        missing = next((name for name in places if name not in backward), None)
        if missing is not None:
            raise ValueError(f"profile: it is for another model: it has no unit {missing}.")
        order = [Piece(places[name]) for name in backward if name in places]
        bundles = self._bundles(order, averaging)
        transfers = [cost.round_s(pieces, self.units) for pieces in bundles]
        computing = [sum(backward[self.units[piece.unit][0]] for piece in pieces) for pieces in bundles]
        ends = exact(transfers, computing, period)
        if self.request.mode == Mode.BACKWARD:
            return tuple(bundles[first:stop] for first, stop in fill(transfers, computing, ends))
        sets = [bundles[first:stop] for first, stop in zip([0, *ends], ends, strict=False)]
        return tuple((tuple(piece for pieces in bundle for piece in pieces),) if bundle else () for bundle in sets)

    def _as_rounds(self, pieces: Sequence[Piece], averaging: Averaging) -> tuple[Round, ...]:
        """What one step sends, as rounds: one, or in mode "backward" as many as there are bundles."""
        if not pieces:
            return ()
        return self._bundles(pieces, averaging) if self.request.mode == Mode.BACKWARD else (tuple(pieces),)

    def _bundles(self, pieces: Sequence[Piece], averaging: Averaging) -> tuple[Round, ...]:
        """Single units, or several together until their bytes take as long as a round's latency.

        A unit that latency rules would only make the others wait. Measured transfer times are of single units and
        leave them alone.
        """
        if self.profile is None or (link := self.profile.link) is None:
            return tuple((piece,) for piece in pieces)
        cost = self.sending.cost(averaging, self.profile)
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
        return tuple(map(tuple, rounds))
