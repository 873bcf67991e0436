# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings of all sites to figures: the slower site counts, and whole periods of a plan."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median, quantiles

Sites = Sequence[Mapping]
"""What the sites of one run recorded."""


def mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    values = list(values)
    return fmean(values) if values else None


def by_method(sites: Sites) -> list[dict[str, float]]:
    """Of a run in turns, by turn and method: the seconds of a step on the slowest site."""
    return [
        {method: max(site[method] for site in turn) for method in turn[0]}
        for turn in zip(*(site["turns"] for site in sites), strict=True)
    ]


def turn_figures(sites: Sites) -> dict[str, dict]:
    """Of a run in turns, by method: `step_s`, the median over turns, between `low_s` and `high_s`, its quartiles;
    `efficiency`, the median of `efficiencies`, which compare each turn with itself: a step without communication over
    one with; `sent`, bytes per step, headers and acknowledgements included, the mean over sites."""
    turns, found = by_method(sites), {}
    for method in turns[0]:
        own = [turn for turn in turns if method in turn]
        seconds, shares = [turn[method] for turn in own], [turn["none"] / turn[method] for turn in own]
        low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        found[method] = {"step_s": median(seconds), "low_s": low, "high_s": high}
        found[method] |= {"efficiency": median(shares), "efficiencies": shares}
        found[method] |= {"sent": fmean(site["sent"][method] for site in sites)}
    return found


def step_s(sites: Sites, warmup: int) -> float:
    """Seconds per step of the slowest site: the median over whole periods of the period's mean."""
    steps = []
    for site in sites:
        boundaries = site["boundaries"]
        # Where a period is longer than what is timed, all of that counts.
        period = min(site["geo"]["plan"]["period"] if "geo" in site else 1, len(boundaries) - 1 - warmup)
        steps.append(median((b - a) / period for a, b in pairwise(boundaries[warmup::period])))
    return max(steps)


def mean_step_s(sites: Sites, warmup: int) -> float:
    """The mean seconds of a step after the warm-up, on the slowest site."""
    return max(fmean(b - a for a, b in pairwise(site["boundaries"][warmup:])) for site in sites)


def whole_s(sites: Sites) -> float:
    """Seconds from the first step to the averaged model."""
    return max(one["ended"] for one in sites) - min(one["boundaries"][0] for one in sites)


def reach(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Where on `curve`, places and losses, the loss is `target`: on straight lines, at most the first place.

    None where no loss is as good.
    """
    if curve[0][1] <= target:
        return curve[0][0]
    for (before, higher), (after, lower) in pairwise(curve):
        if lower <= target:
            return before + (after - before) * (higher - target) / (higher - lower)
    return None


def loss_curve(sites: Sites, width: int) -> list[tuple[float, float]]:
    """By step, seconds since the first step began, and the training loss: mean over sites and the last steps."""
    start = min(site["boundaries"][0] for site in sites)
    seconds = [max(ends) - start for ends in zip(*(site["boundaries"][1:] for site in sites), strict=True)]
    losses = [fmean(one) for one in zip(*(site["losses"] for site in sites), strict=True)]
    smooth = [fmean(losses[max(0, step + 1 - width) : step + 1]) for step in range(len(losses))]
    return list(zip(seconds, smooth, strict=True))
