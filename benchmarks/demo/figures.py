# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to figures: step time, efficiency, bytes, losses, and whether the targets held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, quantiles

from benchmarks.demo.runs import Run

TARGET_EFFICIENCY = 0.90
TARGET_OVER_DDP = 7.5
TARGET_OVER_LOCAL_SGD = 2.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured of one method, over all its runs."""

    step_s: float
    """Median over runs of `runs_s`: every run counts alike, however long it was."""
    low_s: float
    """Lower quartile of all periods' mean steps, in seconds."""
    high_s: float
    """Upper quartile."""
    runs_s: list[float]
    """Per run, the median over periods of the mean step of a period, in seconds, on the slowest site."""
    periods: int
    """Number of periods timed, over all runs."""
    wan_bytes_per_step: float
    """Sent per site, headers and acknowledgements included; the mean over sites and timed steps."""
    eval_loss: float
    """Of the model averaged over sites at the end of the first run, nats per token."""


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


def measure(runs: Sequence[Run], warmup: int, period: int) -> Figures:
    """The figures of one method's `runs`, all timed in whole periods of `period` steps."""
    medians, periods, sent = [], [], []
    for run in runs:
        sites = []
        for recording in run.recordings:
            edges = period_edges(len(recording["boundaries"]), warmup, period)
            at = [recording["boundaries"][edge] for edge in edges]
            sites.append([(stop - start) / period for start, stop in pairwise(at)])
            counts = recording["sent"]
            sent.append((counts[edges[-1]] - counts[edges[0]]) / (edges[-1] - edges[0]))
        slowest = max(sites, key=median)
        medians.append(median(slowest))
        periods += slowest
    low, _, high = quantiles(periods, n=4, method="inclusive") if len(periods) > 1 else periods * 3
    return Figures(
        step_s=median(medians),
        low_s=low,
        high_s=high,
        runs_s=medians,
        periods=len(periods),
        wan_bytes_per_step=fmean(sent),
        eval_loss=runs[0].recordings[0]["eval_loss"],
    )


def targets(figures: Mapping[str, Figures]) -> list[Target]:
    """What geo_accel promises for this demo, beside what was measured."""
    step_s = {method: one.step_s for method, one in figures.items()}
    geo = step_s["geo"]
    return [
        Target(name="efficiency of geo_accel", wanted=TARGET_EFFICIENCY, measured=step_s["none"] / geo),
        Target(name="times faster than DDP", wanted=TARGET_OVER_DDP, measured=step_s["ddp"] / geo),
        Target(
            name="times faster than LocalSGD at the same H",
            wanted=TARGET_OVER_LOCAL_SGD,
            measured=step_s["local_sgd"] / geo,
        ),
    ]


def loss_curve(run: Run, width: int = 8) -> tuple[list[float], list[float]]:
    """Seconds since the first step began, and the training loss: mean over sites and over the last `width` steps."""
    start = min(recording["boundaries"][0] for recording in run.recordings)
    steps = range(1, len(run.recordings[0]["boundaries"]))
    seconds = [max(recording["boundaries"][step] for recording in run.recordings) - start for step in steps]
    losses = [fmean(one) for one in zip(*(recording["losses"] for recording in run.recordings), strict=True)]
    smooth = [fmean(losses[max(0, i + 1 - width) : i + 1]) for i in range(len(losses))]
    return seconds, smooth
