# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Four sites with unequal links, and compression that follows them: `python -m benchmarks.unequal`.

Uplinks of 100, 50, 20 and 100 Mbit/s; once the downlinks are as slow, once they are fast. Every method fine-tunes
the small GPT-2 of `benchmarks.loss`, each site on its own kind of text, in the emulated WAN, for several numbers of
steps: held-out loss of the averaged model against seconds, and how long a method takes to the loss that the baseline
ends with. The baseline is one top-k ratio everywhere without feedback, in blocking rounds, trained six times as long
as the longest runs of the others; "auto", int8 and int4 are repeated with other seeds. Writes
runs/unequal/results.json, table.md and unequal.png. Exits with 1 where a run failed.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.kit.figures import reach, runs_of_geo, whole_s
from benchmarks.kit.job import SMALL, Job
from benchmarks.kit.report import Table, draw_lines
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, run_study
from benchmarks.kit.texts import KINDS
from geo_accel.plan.plan import Plan

UPLINKS = (100.0, 50.0, 20.0, 100.0)
"""Mbit/s, by site."""
SCENARIOS = {"slow both ways": UPLINKS, "slow uplinks": (1000.0,) * len(UPLINKS)}
"""Downlinks by site, Mbit/s."""
STEPS, LEAST_STEPS = 1440, 480
"""Of the baseline; "auto" plans after ten steps, in the shortest runs too."""
SHARES = (1 / 24, 1 / 12, 1 / 6)
"""Every method is trained with so many of the steps, each time with its whole learning-rate schedule: what a shorter
run ends with cannot be read off a longer one, whose rate is still high there. The baseline takes all of them, and what
it ends with is the others' target."""
SEEDS = 3
COLUMNS = {
    "method": "{method}",
    "sends": "{sends}",
    "exchange": "{exchange}",
    "H": "{periods}",
    "step s": "{step_s:.3f}",
    "loss": "{loss:.4f}",
    "s to target": "{to_target}",
    "speed": "{speedup:.2f} ×",
}

BASELINE = "top-k 1 %, rest lost"
REPEATED = ("int8", "int4", "auto")
"""With other examples: what the promise compares."""


# One top-k ratio everywhere without feedback: the training waits for every transfer.
_WAITS = {"mode": "blocking", "schedule": "full", "period": 8, "outer": "mean", "exchange": "direct"}
_LOSES = {"codec": "topk", "residual": "none", "overlap_weighting": False}
METHODS = {
    BASELINE: {"sync": _WAITS, "compression": {"ratio": 0.01, **_LOSES}},
    "top-k 10 %, rest lost": {"sync": _WAITS, "compression": {"ratio": 0.1, **_LOSES}},
    "top-k, ratios by link": {"sync": {"period": 1, "outer": "mean"}, "compression": {"codec": "topk"}},
    **{name: {"sync": {"outer": "mean"}, "compression": {"codec": name}} for name in ("int8", "int4")},
    "auto": {},
}
"""geo_accel's settings by method."""
_JOB = Job(setting=SMALL, method="geo", rate=2e-3, sites=4, mbps=UPLINKS, kinds=KINDS, own=True, pretrained=True)


def jobs_of(scenario: str, method: str, seed: int, steps: int) -> dict[float, Job]:
    """The runs of one method by share of the steps, shortest first."""
    job = replace(_JOB, down_mbps=SCENARIOS[scenario], config=METHODS[method], seed=seed)
    shares = (SHARES[-1], 1.0) if method == BASELINE else SHARES
    return {share: replace(job, steps=round(share * steps)) for share in shares}


def jobs(scenario: str, steps: int) -> list[Job]:
    """Seed by seed: a machine's speed drifts, and what is compared should see the same minutes."""
    pairs = [(seed, method) for seed in range(SEEDS) for method in METHODS if method in REPEATED or not seed]
    return [job for seed, method in pairs for job in jobs_of(scenario, method, seed, steps).values()]


def figures(scenario: str, steps: int, results: Store) -> list[dict] | None:
    """One row per method, about the runs of the length that all have; None unless all were made.

    `curves` has by seed seconds and held-out loss of each length, `curve` their mean. `to_target_s` is by seed, None
    where no run is as good as the baseline's longest; `speedup` is of the mean, None if one is not reached.
    """
    rows = []
    for method in METHODS:
        wanted = [jobs_of(scenario, method, seed, steps) for seed in range(SEEDS if method in REPEATED else 1)]
        if not all(results.find(job) for by_share in wanted for job in by_share.values()):
            return None
        found = [{share: results.find(job)["recordings"] for share, job in some.items()} for some in wanted]
        curves = [[(whole_s(sites), sites[0]["loss"]) for sites in by_share.values()] for by_share in found]
        row = {"method": method, "curves": curves}
        row["curve"] = [tuple(map(fmean, zip(*alike, strict=True))) for alike in zip(*curves, strict=True)]
        common = [by_share[SHARES[-1]] for by_share in found]
        # Planning is long over in the second half.
        row |= runs_of_geo(common, len(common[0][0]["losses"]) // 2)
        plan = Plan.from_json(json.dumps(common[0][0]["geo"]["plan"]))
        rows.append(row | {"sends": str(plan.averaging), "exchange": plan.exchange})
    whole, target = next(row["curve"][-1] for row in rows if row["method"] == BASELINE)
    for row in rows:
        row["to_target_s"] = [reach(curve, target) for curve in row["curves"]]
        row["to_target"] = " ".join("never" if one is None else f"{one:.1f}" for one in row["to_target_s"])
        row["speedup"] = whole / fmean(row["to_target_s"]) if None not in row["to_target_s"] else None
    return rows


def draw(folder: Path, by_scenario: Mapping[str, Sequence[Mapping]], _: Store) -> list[Path]:
    """What runs of several lengths end with, over their seconds, one panel for each kind of links."""
    lines = {name: [(row["method"], row["curve"], {}) for row in rows] for name, rows in by_scenario.items()}
    panels = {name: (rows[0]["curve"][-1][1], lines[name]) for name, rows in by_scenario.items()}
    across, up = "seconds since the first step", "held-out loss of the averaged model"
    return draw_lines(folder / "unequal.png", panels, across, up)


def main(arguments: list[str] | None = None) -> int:
    """Runs both scenarios; returns the exit code."""
    parser = arguments_of(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the baseline; default: {STEPS}")
    options = parser.parse_args(arguments)
    if options.steps < LEAST_STEPS:
        parser.error(f"--steps {options.steps}: must be at least {LEAST_STEPS}.")
    return run_study(
        "unequal",
        options,
        jobs=lambda _: [job for name in SCENARIOS for job in jobs(name, options.steps)],
        figures=lambda store: {name: rows for name in SCENARIOS if (rows := figures(name, options.steps, store))},
        tables=lambda every: [Table(f"four sites, {name}", COLUMNS, rows) for name, rows in every.items()],
        draw=draw,
    )


if __name__ == "__main__":
    sys.exit(main())
