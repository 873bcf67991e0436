# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to figures: what runs of several lengths end with, and the time to the baseline's loss."""

import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from benchmarks.unequal.setting import BASELINE, METHODS, SHARES, UPLINKS, seeds_of, shares_of

HEADINGS = ("method", "sends", "exchange", "H", "step s", "loss", "s to target", "speed", "sent after s")


def recordings(folder: Path) -> list[dict] | None:
    """What each site wrote; None unless all methods and seeds are there."""
    paths = [folder / f"rank-{site}.json" for site in range(len(UPLINKS))]
    sites = [json.loads(path.read_text()) for path in paths if path.exists()]
    wanted = {method: seeds_of(method) for method in METHODS}
    whole = all({method: len(seeds) for method, seeds in site.items()} == wanted for site in sites)
    return sites if len(sites) == len(paths) and whole else None


def compare(sites: list[dict]) -> list[dict]:
    """One row per method, about the runs of the length that all have.

    `curves` has by seed, and `curve` as their mean, seconds and held-out loss of each length. `to_target_s` is by
    seed, None where no run is as good as the baseline's longest; `speedup` is of the mean, None if one is not reached.
    """
    rows = []
    for method in METHODS:
        curves = [
            [
                (max(run["whole_s"] for run in alike), alike[0]["loss"])
                for alike in zip(*(site[method][seed] for site in sites), strict=True)
            ]
            for seed in range(seeds_of(method))
        ]
        curve = [tuple(map(fmean, zip(*alike, strict=True))) for alike in zip(*curves, strict=True)]
        common = shares_of(method).index(SHARES[-1])
        runs = [[site[method][seed][common] for site in sites] for seed in range(seeds_of(method))]
        rows.append(
            {
                "method": method,
                "plans": [alike[0]["plan"] for alike in runs],
                "step_s": fmean(max(_step_s(run["boundaries"]) for run in alike) for alike in runs),
                "loss": curve[common][1],
                "curve": curve,
                "curves": curves,
                "sending_s": [fmean(run["sending_s"] for run in alike) for alike in zip(*runs, strict=True)],
            }
        )
    baseline = next(row for row in rows if row["method"] == BASELINE)
    whole_s, target = baseline["curve"][-1]
    for row in rows:
        row["to_target_s"] = [reach(curve, target) for curve in row["curves"]]
        reached = None not in row["to_target_s"]
        row["speedup"] = whole_s / fmean(row["to_target_s"]) if reached else None
    return rows


def _step_s(boundaries: list[float]) -> float:
    """Seconds per step over the second half, when planning is long over."""
    half = len(boundaries) // 2
    return (boundaries[-1] - boundaries[half]) / (len(boundaries) - 1 - half)


def reach(curve: list[tuple[float, float]], target: float) -> float | None:
    """Seconds of the run that ends with `target`: between runs on a straight line, at most those of the shortest.

    None where no run is as good.
    """
    if curve[0][1] <= target:
        return curve[0][0]
    for (before, higher), (after, lower) in pairwise(curve):
        if lower <= target:
            return before + (after - before) * (higher - target) / (higher - lower)
    return None


def cells(row: dict) -> tuple[str, ...]:
    """A row of the table, as text."""
    plan, periods = row["plans"][0], sorted({one["period"] for one in row["plans"]})
    return (
        row["method"],
        plan["words"],
        plan["exchange"] + (f" (site {plan['hub']})" if plan["exchange"] == "hub" else ""),
        " to ".join(map(str, dict.fromkeys((periods[0], periods[-1])))),
        f"{row['step_s']:.3f}",
        f"{row['loss']:.4f}",
        " ".join("never" if one is None else f"{one:.1f}" for one in row["to_target_s"]),
        "" if row["speedup"] is None else f"{row['speedup']:.2f} ×",
        " ".join(f"{one:.3f}" for one in row["sending_s"]),
    )
