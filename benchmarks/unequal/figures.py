# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to figures: what runs of several lengths end with, and the time to the baseline's loss."""

import json
from itertools import pairwise
from pathlib import Path

from benchmarks.unequal.setting import BASELINE, METHODS, SHARES, UPLINKS, shares_of

HEADINGS = ("method", "sends", "exchange", "H", "step s", "loss", "s to target", "speed", "sent after s")


def recordings(folder: Path) -> list[dict] | None:
    """What each site wrote; None unless all methods are there."""
    paths = [folder / f"rank-{site}.json" for site in range(len(UPLINKS))]
    sites = [json.loads(path.read_text()) for path in paths if path.exists()]
    return sites if len(sites) == len(paths) and all(site.keys() == METHODS.keys() for site in sites) else None


def compare(sites: list[dict]) -> list[dict]:
    """One row per method, about the run of the length that all have; `curve` has seconds and held-out loss of each."""
    rows = []
    for method in METHODS:
        curve = [
            (max(run["whole_s"] for run in alike), alike[0]["loss"])
            for alike in zip(*(site[method] for site in sites), strict=True)
        ]
        common = shares_of(method).index(SHARES[-1])
        runs = [site[method][common] for site in sites]
        rows.append(
            {
                "method": method,
                "plan": runs[0]["plan"],
                "step_s": max(_step_s(run["boundaries"]) for run in runs),
                "loss": curve[common][1],
                "curve": curve,
                "sending_s": [run["sending_s"] for run in runs],
            }
        )
    baseline = next(row for row in rows if row["method"] == BASELINE)
    whole_s, target = baseline["curve"][-1]
    for row in rows:
        row["to_target_s"] = reach(row["curve"], target)
        row["speedup"] = whole_s / row["to_target_s"] if row["to_target_s"] else None
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
    plan, reached = row["plan"], row["to_target_s"]
    return (
        row["method"],
        plan["words"],
        plan["exchange"] + (f" (site {plan['hub']})" if plan["exchange"] == "hub" else ""),
        str(plan["period"]),
        f"{row['step_s']:.3f}",
        f"{row['loss']:.4f}",
        "never" if reached is None else f"{reached:.1f}",
        "" if reached is None else f"{row['speedup']:.2f} ×",
        " ".join(f"{one:.3f}" for one in row["sending_s"]),
    )
