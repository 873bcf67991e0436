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


def turn_figures(sites: Sites) -> dict[str, dict]:
    """Of a run in turns, by method: `step_s`, the median over turns, with its quartiles; `efficiency`, the median of
    those by turn, which compare each turn with itself: a step without communication over one with; the WAN's bytes per
    step, headers and acknowledgements included, the mean over sites; `waited_s` per step; `peak`, bytes of memory."""
    every, found = list(zip(*(site["turns"] for site in sites), strict=True)), {}
    for method in every[0][0]:
        own = [turn for turn in every if method in turn[0]]
        seconds, floor = ([max(site[one]["step_s"] for site in turn) for turn in own] for one in (method, "none"))
        shares = [none / second for none, second in zip(floor, seconds, strict=True)]
        low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        parts = [site[method] for turn in own for site in turn]
        found[method] = {
            "step_s": median(seconds),
            "step_s_quartiles": (low, high),
            "efficiency": median(shares),
            "efficiency_by_turn": shares,
            "wan_bytes_per_step": fmean(part["sent"] for part in parts),
            "waited_s": fmean(part["waited_s"] for part in parts),
            "peak": max(part["peak"] for part in parts),
        }
    return found


def step_s(sites: Sites, warmup: int) -> float:
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


def runs_of_geo(runs: Sequence[Sites], warmup: int) -> dict:
    """Of runs of geo_accel that are alike but for their seeds, means: seconds of a step after the warm-up and of the
    whole run, loss; and the plans' periods."""
    periods = [sites[0]["geo"]["plan"]["period"] for sites in runs]
    return {
        "seeds": len(runs),
        "loss": mean(sites[0]["loss"] for sites in runs),
        "step_s": mean(step_s(sites, warmup) for sites in runs),
        "whole_s": mean(map(whole_s, runs)),
        "periods": f"{min(periods)} to {max(periods)}" if periods else None,
    }
