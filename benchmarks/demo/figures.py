# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to figures: step time, efficiency, bytes, losses, and whether the targets held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, quantiles

from benchmarks.demo.runs import Run

TARGET_EFFICIENCY = 0.95
TARGET_LOSS = 0.85
TARGET_TIME_TO_LOSS = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured of one method."""

    step_s: float
    """Seconds of a step on the slower site: the median over turns."""
    low_s: float
    """Lower quartile of the turns, in seconds."""
    high_s: float
    """Upper quartile."""
    efficiency: float
    """The step time without communication divided by this one's: the median over turns, each by itself."""
    efficiencies: list[float]
    """By turn."""
    wan_bytes_per_step: float
    """Sent per site, headers and acknowledgements included; the mean over sites and whole periods."""
    eval_loss: float
    """Of the model averaged over sites at the end of the method's run, nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing the demo has to show."""

    name: str
    wanted: float
    measured: float

    @property
    def held(self) -> bool:
        return self.measured >= self.wanted


def period_edges(boundaries: int, warmup: int, period: int) -> list[int]:
    """Boundary numbers that separate whole periods after the warm-up, of a run with that many boundaries.

    Boundary 0 is the start of step 1. Any `period` steps in a row hold one whole period's transfers, wherever they
    begin. Raises ValueError if not one period fits.
    """
    edges = list(range(warmup, boundaries, period))
    if len(edges) < 2:
        raise ValueError(f"{boundaries - 1} steps with a warm-up of {warmup} hold no whole period of {period} steps.")
    return edges


def measure(method: str, run: Run, turns: Run, warmup: int, period: int) -> Figures:
    """The figures of one method from its own `run` and the run of all in `turns`, over whole periods of `period`."""
    slowest = [
        {name: max(site[name] for site in sites) for name in sites[0]}
        for sites in zip(*(recording["turns"] for recording in turns.recordings), strict=True)
    ]
    own = [turn for turn in slowest if method in turn]
    seconds = [turn[method] for turn in own]
    efficiencies = [turn["none"] / turn[method] for turn in own]
    sent = []
    for recording in run.recordings:
        edges = period_edges(len(recording["boundaries"]), warmup, period)
        counts = recording["sent"]
        sent.append((counts[edges[-1]] - counts[edges[0]]) / (edges[-1] - edges[0]))
    low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return Figures(
        step_s=median(seconds),
        low_s=low,
        high_s=high,
        efficiency=median(efficiencies),
        efficiencies=efficiencies,
        wan_bytes_per_step=fmean(sent),
        eval_loss=run.recordings[0]["eval_loss"],
    )


def steps_to(loss: float, checks: Sequence[tuple[int, float]]) -> float:
    """The steps after which a run's held-out loss is `loss`, between its `checks` (steps done, loss then).

    The last of them where it gets no further; where it was there before the first check, as many steps as that has:
    the truth is less.
    """
    if checks[0][1] <= loss:
        return checks[0][0]
    for (before, above), (after, below) in pairwise(checks):
        if below <= loss:
            return before + (after - before) * (above - loss) / (above - below)
    return checks[-1][0]


def targets(figures: Mapping[str, Figures], checks: Sequence[tuple[int, float]]) -> list[Target]:
    """What geo_accel promises for this demo, beside what was measured; `checks` are DDP's.

    All are shares of what no network at all gives, so that they mean the same on fast and on slow machines.
    """
    geo = figures["geo"]
    loss = steps_to(geo.eval_loss, checks) / checks[-1][0]
    return [
        Target(
            name="efficiency: speed, as a share of no network's", wanted=TARGET_EFFICIENCY, measured=geo.efficiency
        ),
        Target(name="learning: DDP's steps to geo_accel's loss, per step", wanted=TARGET_LOSS, measured=loss),
        Target(
            name="both: time to that loss, DDP's without a network per geo_accel's",
            wanted=TARGET_TIME_TO_LOSS,
            measured=geo.efficiency * loss,
        ),
    ]


def loss_curve(run: Run, step_s: float, warmup: int, width: int = 8) -> tuple[list[float], list[float]]:
    """Seconds since the first step began, and the training loss: mean over sites and over the last `width` steps.

    Seconds are the run's own, stretched alike so that a step after the warm-up takes `step_s` on average: the runs of
    two methods have not seen the same machine, the turns in which `step_s` was measured have.
    """
    start = min(recording["boundaries"][0] for recording in run.recordings)
    steps = range(1, len(run.recordings[0]["boundaries"]))
    seconds = [max(recording["boundaries"][step] for recording in run.recordings) - start for step in steps]
    stretch = step_s * (len(seconds) - warmup) / (seconds[-1] - (seconds[warmup - 1] if warmup else 0.0))
    losses = [fmean(one) for one in zip(*(recording["losses"] for recording in run.recordings), strict=True)]
    smooth = [fmean(losses[max(0, i + 1 - width) : i + 1]) for i in range(len(losses))]
    return [stretch * second for second in seconds], smooth
