# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The automatic choice: the smallest period that hides, given the measured step and link.

A simple rule over averages; the timeline model and the search over (H, codec, delay, outer step) come on top of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from geo_accel.plan.partition import SCHEDULES, stream
from geo_accel.plan.plan import Plan
from geo_accel.profile.link import Link

# A round shares cores and link with everything else: aim to fill this much of its window.
FILL = 0.85
# What blocking synchronisation may cost when the period is ours to choose.
BLOCKING_SHARE = 0.1
# What the codecs of wire/ need, known here without torch.
BYTES_PER_VALUE = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user fixed; "auto" where the choice is ours."""

    mode: str
    period: int | str
    schedule: str
    delay: int | str
    codec: str

    @property
    def needs_measurement(self) -> bool:
        """Whether step and link must be known before a plan can be made."""
        return "auto" in (self.period, self.codec) or (self.mode == "stream" and self.delay == "auto")


def exchange_for(sites: int) -> str:
    """Two sites swap payloads; from three on, averaging by chunks sends fewer bytes: 2(N-1)/N against N-1 payloads."""
    return "direct" if sites <= 2 else "two-shot"


def choose_plan(
    request: Request,
    units: Sequence[tuple[str, int]],
    sites: int,
    step_s: float | None = None,
    link: Link | None = None,
) -> Plan:
    """The plan for `units` (names and elements carried per rank, in backward order) over `sites` sites.

    `step_s` (seconds without WAN) and `link` are needed where `request.needs_measurement`. Codec "auto" takes bf16
    where that shortens the period, else fp32: bits are cheaper than steps apart (DESIGN 3).
    """
    exchange = exchange_for(sites)
    codecs = ["fp32", "bf16"] if request.codec == "auto" else [request.codec]
    numel = sum(size for _, size in units)
    if not request.needs_measurement:
        options = [_Option(codec=codecs[0], period=request.period, rounds=request.period, delay=request.delay)]
        reason = "as configured"
    else:
        assert step_s is not None and link is not None
        traffic = _Traffic(sites=sites, exchange=exchange, numel=numel, step_s=step_s, link=link)
        options = [_smallest(request, codec, traffic) for codec in codecs]
        reason = ""
    best = min(options, key=lambda option: (option.period, option.exposed_s, -BYTES_PER_VALUE[option.codec]))
    blocking = request.mode == "blocking"
    schedule = request.schedule if request.schedule != "auto" else ("full" if blocking else "stream")
    sizes = [size for _, size in units]
    starts = (
        stream(sizes, best.period, best.rounds) if schedule == "stream" else SCHEDULES[schedule](sizes, best.period)
    )
    if not reason:
        reason = traffic.explain(best.codec, starts, sizes, blocking, best.delay)
    return Plan(
        mode=request.mode,
        schedule=schedule,
        period=best.period,
        delay=0 if blocking else best.delay,
        codec=best.codec,
        exchange=exchange,
        units=tuple(units),
        starts=starts,
        reason=reason,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    codec: str
    period: int
    rounds: int
    delay: int
    exposed_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traffic:
    """Seconds of WAN time that rounds of given sizes take."""

    sites: int
    exchange: str
    numel: int
    step_s: float
    link: Link

    def seconds(self, numel: float, codec: str, rounds: int = 1) -> float:
        shots, share = (1, self.sites - 1) if self.exchange == "direct" else (2, 2 * (self.sites - 1) / self.sites)
        return self.link.seconds(shots * rounds, share * numel * BYTES_PER_VALUE[codec])

    def explain(self, codec, starts, sizes, blocking, delay) -> str:
        def carried(step) -> float:
            return sum(sizes[p.unit] / p.parts for p in step)

        transfers = [self.seconds(carried(step), codec) for step in starts if step]
        window = self.step_s if blocking else self.step_s * delay
        exposed = sum(transfers) if blocking else sum(max(0.0, t - window) for t in transfers)
        # Rounds queue on one link: however they are spread, a period cannot be shorter than its transfers.
        if not blocking:
            exposed = max(exposed, sum(transfers) - self.step_s * len(starts))
        hidden = "everything hides" if exposed <= 0 else f"{exposed / len(starts):.3f} s per step stay exposed"
        return (
            f"step {self.step_s:.3f} s, link {self.link.megabits_per_second:.0f} Mbit/s and "
            f"{self.link.latency_s * 1e3:.1f} ms: longest transfer {max(transfers):.3f} s, {hidden}"
        )


def _smallest(request: Request, codec: str, traffic: _Traffic) -> _Option:
    """The smallest period for `codec`, with the smallest delay that hides."""
    if request.mode == "blocking":
        period = request.period
        if period == "auto":
            period = max(1, ceil(traffic.seconds(traffic.numel, codec) / (BLOCKING_SHARE * traffic.step_s)))
        return _Option(
            codec=codec, period=period, rounds=period, delay=0, exposed_s=traffic.seconds(traffic.numel, codec)
        )
    window = FILL * traffic.step_s
    whole = request.schedule == "full"

    def rounds_in(period: int) -> int:
        """As many rounds as their latencies leave room for, or cost a tenth; one where the schedule is "full"."""
        if whole:
            return 1
        latency, transfer = traffic.seconds(0, codec), traffic.seconds(traffic.numel, codec, rounds=0)
        room = max(period * window - transfer, 0.1 * transfer)
        return max(1, int(room / latency)) if latency > room / period else period

    if request.period == "auto":
        carried = traffic.seconds(traffic.numel, codec)
        least = max(1, ceil(carried / window))
        # Every further step of the period adds a window but at most one latency, so this ends.
        period = least if request.delay == "auto" else max(least, request.delay)
    else:
        period = request.period
    rounds = rounds_in(period)
    delay = request.delay
    if delay == "auto":
        delay = min(period, max(1, ceil(traffic.seconds(traffic.numel / rounds, codec) / window)))
    exposed = max(0.0, traffic.seconds(traffic.numel, codec, rounds) - period * window)
    return _Option(codec=codec, period=period, rounds=rounds, delay=delay, exposed_s=exposed)
