# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What training over a WAN would cost, by method: the planner's time model, asked before anything is rented.

Rounds wait for the slowest site, so one site on the slowest link stands for all, and the number of sites enters
only through the bytes that a site sends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from geo_accel.config.names import AUTO, DENSE_CODECS, Auto, Mode, Schedule
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.choose import LONGEST_PERIOD, choose_plan
from geo_accel.plan.cost import Cost, exchange_for
from geo_accel.plan.members import Members
from geo_accel.plan.plan import Piece, Plan, Round
from geo_accel.plan.request import Request
from geo_accel.plan.shapes import require_number
from geo_accel.plan.timeline import timeline
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile

STREAMS = tuple(f"stream-{codec}" for codec in DENSE_CODECS)
METHODS = ("none", "ssgd", "local-sgd", "enp", "dreamddp", *STREAMS, "auto")
"""In the order of the table. "none" sends nothing; "auto" is what geo_accel would do with nothing fixed."""
PERIODIC = tuple(method for method in METHODS if method not in ("none", "ssgd", "auto"))
"""Methods that the period given applies to."""

_SCHEDULES = {
    "local-sgd": (Mode.BLOCKING, Schedule.FULL),
    "enp": (Mode.BACKWARD, Schedule.EQUAL),
    "dreamddp": (Mode.BACKWARD, Schedule.DREAMDDP),
}
# Synchronous SGD merges gradients into buckets that hold at least this share of the model; the fastest share is taken.
_BUCKETS = (0.0, *(2.0**-power for power in range(8, -1, -1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is asked. Raises ValueError, in one line, for numbers that make no sense."""

    profile: Profile
    """Of one rank of a site, with the sites' links."""
    sites: int
    period: int | Auto = AUTO
    """Steps between two synchronisations of a unit; "auto": each method gets the shortest that it can afford."""
    codec: str = "bf16"
    """Of ssgd's gradients, and of the methods that have none in their name."""
    carriers: int = 1
    """Ranks of a site that each carry the profile's `numel`; bytes of a site are this many times a rank's."""
    gpus_per_site: int = 1
    tokens_per_step: int | None = None
    """Of all sites; None where it is not known."""
    gpu_hour: float | None = None
    """Dollars for one GPU for an hour."""
    gb: float | None = None
    """Dollars for 10^9 bytes that leave a site."""

    def __post_init__(self) -> None:
        require_number("sites", self.sites, 2, 10**6, whole=True)
        if self.period != AUTO:
            require_number("period", self.period, 1, LONGEST_PERIOD, whole=True)
        if self.codec not in DENSE_CODECS:
            raise ValueError(f"codec is {self.codec!r}; allowed: {', '.join(DENSE_CODECS)}.")
        require_number("carriers", self.carriers, 1, 10**6, whole=True)
        require_number("gpus-per-site", self.gpus_per_site, 1, 10**7, whole=True)
        if self.tokens_per_step is not None:
            require_number("tokens per step", self.tokens_per_step, 1, 10**30, whole=True)
        for name, dollars in (("gpu-hour", self.gpu_hour), ("gb", self.gb)):
            if dollars is not None:
                require_number(name, dollars, 0, 1e9)

    @property
    def knows_sizes(self) -> bool:
        """Whether units have sizes, or, as in published profiles, only transfer times."""
        return self.profile.numel > 0

    def over(self, links: Sequence[Link]) -> "Scenario":
        """The same over the links of sites, of which each of a site's carriers has its share.

        Raises ValueError where the profile has transfer times but no sizes.
        """
        if not self.knows_sizes:
            raise ValueError("the profile has transfer times but no sizes of units: its link cannot be changed.")
        link = Link.slowest(links)
        shared = replace(link, seconds_per_byte=link.seconds_per_byte * self.carriers)
        return replace(self, profile=self.profile.with_link(shared))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one method would cost."""

    method: str
    step_s: float
    """Mean seconds of a step."""
    efficiency: float
    """Step time without WAN over `step_s`."""
    exposed_s: float
    """Mean seconds by which a step waits for the WAN."""
    period: int | None = None
    delay: int | None = None
    codec: str | None = None
    wan_bytes_per_step: float | None = None
    """That each site sends, mean; None where the profile has no sizes."""
    tokens_per_s: float | None = None
    """All sites together."""
    dollars_per_million_tokens: float | None = None
    """GPUs and egress, as far as their prices are known."""


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Methods by name, in the order of `METHODS`; "stream" stands for one per codec.

    Raises ValueError for an unknown name.
    """
    wanted = {method for name in names for method in (STREAMS if name == "stream" else (name,))}
    unknown = sorted(wanted.difference(METHODS))
    if unknown:
        raise ValueError(f"methods: {unknown[0]!r} is unknown; there are stream, {', '.join(METHODS)}.")
    return tuple(method for method in METHODS if method in wanted)


def simulate(scenario: Scenario, method: str) -> Outcome:
    """Runs one of `METHODS` through the time model.

    Raises ValueError where the profile knows neither links nor transfer times.
    """
    profile, members = _one_for_all(scenario.profile), Members(scenario.sites)
    if method == "none":
        return _priced(scenario, Outcome(method=method, step_s=profile.compute_s, efficiency=1.0, exposed_s=0.0), 0.0)
    if method == "ssgd":
        # Gradients are reduced where they are: no anchors, no codec.
        profile = replace(profile, handling={})
        plan = min(_ssgd_plans(scenario), key=lambda plan: timeline(plan, profile, members).step_s)
    else:
        plan = choose_plan(_request(scenario, method), _units(profile), members, profile)
    course = timeline(plan, profile, members)
    nbytes = None
    if scenario.knows_sizes:
        per_rank = Cost.of(plan, profile, members).nbytes(plan.values_per_period) / plan.period
        nbytes = per_rank * scenario.carriers
    outcome = Outcome(
        method=method,
        step_s=course.step_s,
        efficiency=min(1.0, course.efficiency),
        exposed_s=course.exposed_s_per_period / plan.period,
        period=None if method == "ssgd" else plan.period,
        delay=plan.delay or None,
        codec=plan.codec,
    )
    return _priced(scenario, outcome, nbytes)


def _one_for_all(profile: Profile) -> Profile:
    """The same with one link, the slowest: what a round costs must not depend on how many links are listed."""
    return replace(profile, links=(("slowest", profile.link),)) if profile.link is not None else profile


def _units(profile: Profile) -> list[tuple[str, int]]:
    """Names and sizes; nanoseconds of transfer stand in for sizes where only those are known, to balance rounds by."""
    if profile.numel > 0:
        return [(unit.name, unit.numel) for unit in profile.units]
    return [(unit.name, round((unit.transfer_s or 0.0) * 1e9)) for unit in profile.units]


def _request(scenario: Scenario, method: str) -> Request:
    if method == "auto":
        return Request(mode=Mode.STREAM)
    if method in STREAMS:
        return Request(mode=Mode.STREAM, period=scenario.period, codec=method.removeprefix("stream-"))
    mode, schedule = _SCHEDULES[method]
    return Request(mode=mode, schedule=schedule, period=scenario.period, codec=scenario.codec)


def _ssgd_plans(scenario: Scenario) -> list[Plan]:
    """Every unit every step, started as gradients become ready: one by one, or merged into buckets of some sizes.

    The sizes depend on the model alone, so that a faster link never makes it slower.
    """
    units = tuple(_units(scenario.profile))
    total = sum(size for _, size in units)
    # Measured transfers are of single units: merging would only delay them.
    shares = _BUCKETS if all(unit.transfer_s is None for unit in scenario.profile.units) else (0.0,)
    layouts = dict.fromkeys(_buckets(units, share * total) for share in shares)
    return [
        Plan(
            mode=Mode.BACKWARD,
            schedule=Schedule.FULL,
            period=1,
            delay=0,
            averaging=Averaging(codec=scenario.codec, exchange=exchange_for(scenario.sites)),
            units=units,
            rounds=(rounds,),
        )
        for rounds in layouts
    ]


def _buckets(units: Sequence[tuple[str, int]], least: float) -> tuple[Round, ...]:
    """Units in order, merged until a bucket holds `least`."""
    rounds: list[tuple[Piece, ...]] = []
    held = least
    for place, (_, size) in enumerate(units):
        if held >= least:
            rounds.append(())
            held = 0.0
        rounds[-1] += (Piece(place),)
        held += size
    return tuple(rounds)


def _priced(scenario: Scenario, outcome: Outcome, nbytes: float | None) -> Outcome:
    tokens = scenario.tokens_per_step
    speed = dollars = None
    if tokens is not None:
        speed = tokens / outcome.step_s
        if scenario.gpu_hour is not None or (scenario.gb is not None and nbytes is not None):
            gpus = scenario.sites * scenario.gpus_per_site * outcome.step_s / 3600 * (scenario.gpu_hour or 0.0)
            egress = scenario.sites * (nbytes or 0.0) / 1e9 * (scenario.gb or 0.0)
            dollars = (gpus + egress) / tokens * 1e6
    return replace(outcome, wan_bytes_per_step=nbytes, tokens_per_s=speed, dollars_per_million_tokens=dollars)
