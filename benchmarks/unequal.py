# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Four sites with unequal links, and compression that follows them: `python -m benchmarks.unequal`.

Uplinks of 100, 50, 20 and 100 Mbit/s; once the downlinks are as slow, once they are fast. Every method fine-tunes
the small GPT-2 of `benchmarks.loss`, each site on its own kind of text, in the emulated WAN, for several numbers of
steps: held-out loss of the averaged model against seconds, how long a method takes to the loss that the baseline ends
with, and when each site has sent its share of a round. The baseline is one top-k ratio everywhere without feedback,
in blocking rounds, trained six times as long as the longest runs of the others; "auto", int8 and int4 are repeated
with other seeds. Writes runs/unequal/results.json, table.md and unequal.png. Exits with 1 where a run failed.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.kit.figures import reach, whole_s
from benchmarks.kit.job import SMALL, Job
from benchmarks.kit.report import Table
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, run_study
from benchmarks.kit.texts import KINDS
from geo_accel.plan.plan import Plan

UPLINKS = (100.0, 50.0, 20.0, 100.0)
"""Mbit/s, by site."""
SCENARIOS = {"slow both ways": UPLINKS, "slow uplinks": (1000.0,) * len(UPLINKS)}
"""Downlinks by site, Mbit/s."""
RATE, STEPS, LEAST_STEPS = 2e-3, 1440, 480
"""Steps are the baseline's; "auto" plans after ten steps, in the shortest runs too."""
SHARES = (1 / 24, 1 / 12, 1 / 6)
"""Every method is trained with so many of the steps, each time with its whole learning-rate schedule: what a shorter
run ends with cannot be read off a longer one, whose rate is still high there. The baseline takes all of them, and what
it ends with is the others' target."""
SEEDS = 3
"""Of the methods that the promise compares; one of the others."""
_ROUNDS = 15
COLUMNS = {
    "method": "{method}",
    "sends": "{sends}",
    "exchange": "{exchange}",
    "H": "{periods}",
    "step s": "{step_s:.3f}",
    "loss": "{loss:.4f}",
    "s to target": "{to_target}",
    "speed": "{speedup:.2f} ×",
    "sent after s": "{sent_after}",
}

BASELINE = "top-k 1 %, rest lost"
WEIGHTED, CONTROL = "  overlap weighted", "  outer learning rate 2"
UNIFORM, AUTO = ("int8", "int4"), "auto"
_STEP2 = {"type": "nesterov", "lr": 2.0, "momentum": 0.0}


def _lossy(ratio: float) -> dict:
    """One top-k ratio everywhere without feedback: the training waits for every transfer."""
    return {
        "sync": {"mode": "blocking", "schedule": "full", "period": 8, "outer": "mean", "exchange": "direct"},
        "compression": {"codec": "topk", "ratio": ratio, "residual": "none", "overlap_weighting": False},
    }


def _by_link(outer: object = "mean", **more: object) -> dict:
    return {"sync": {"period": 1, "outer": outer}, "compression": {"codec": "topk", **more}}


METHODS = {
    BASELINE: _lossy(0.01),
    "top-k 10 %, rest lost": _lossy(0.1),
    "top-k, ratios by link": _by_link(),
    WEIGHTED: _by_link(overlap_weighting=True),
    CONTROL: _by_link(_STEP2),
    **{name: {"sync": {"outer": "mean"}, "compression": {"codec": name}} for name in UNIFORM},
    AUTO: {},
}
"""geo_accel's settings by method."""


def shares_of(method: str) -> tuple[float, ...]:
    """Of the steps, in the runs of `method`; of some it matters only where they end beside the method without."""
    return (SHARES[-1], 1.0) if method == BASELINE else SHARES[-1:] if method in (WEIGHTED, CONTROL) else SHARES


def seeds_of(method: str) -> range:
    """With which other examples `method` is repeated."""
    return range(SEEDS if method in (*UNIFORM, AUTO) else 1)


def jobs_of(scenario: str, method: str, seed: int, steps: int) -> list[Job]:
    """The runs of one method, shortest first; after the length that all have it is seen who sends for how long."""
    one = Job(
        setting=SMALL, method="geo", config=METHODS[method], rate=RATE, seed=seed, sites=len(UPLINKS), mbps=UPLINKS
    )
    one = replace(
        one, down_mbps=SCENARIOS[scenario], kinds=KINDS, own=True, pretrained=True, series=f"{method} {seed}"
    )
    shares = shares_of(method)
    return [replace(one, steps=round(by * steps), sending=_ROUNDS if by == SHARES[-1] else 0) for by in shares]


def jobs(scenario: str, steps: int) -> list[Job]:
    """Seed by seed: a machine's speed drifts, and what is compared should see the same minutes."""
    pairs = [(seed, method) for seed in range(SEEDS) for method in METHODS if seed in seeds_of(method)]
    return [job for seed, method in pairs for job in jobs_of(scenario, method, seed, steps)]


def figures(scenario: str, steps: int, results: Store) -> list[dict] | None:
    """One row per method, about the runs of the length that all have; None unless all were made.

    `curves` has by seed seconds and held-out loss of each length, `curve` their mean. `to_target_s` is by seed, None
    where no run is as good as the baseline's longest; `speedup` is of the mean, None if one is not reached.
    """
    rows = []
    for method in METHODS:
        found = [[results.find(job) for job in jobs_of(scenario, method, seed, steps)] for seed in seeds_of(method)]
        if not all(result for some in found for result in some):
            return None
        curves = [[(whole_s(one["recordings"]), one["recordings"][0]["loss"]) for one in some] for some in found]
        curve = [tuple(map(fmean, zip(*alike, strict=True))) for alike in zip(*curves, strict=True)]
        common = shares_of(method).index(SHARES[-1])
        runs = [some[common]["recordings"] for some in found]
        plans = [alike[0]["geo"]["plan"] for alike in runs]
        periods = [plan["period"] for plan in plans]
        sending = [fmean(one["sending_s"] for one in alike) for alike in zip(*runs, strict=True)]
        late = [[late_step_s(one["boundaries"]) for one in alike] for alike in runs]
        row = {"method": method, "curve": curve, "curves": curves, "loss": curve[common][1]}
        row |= {"sends": str(Plan.from_json(json.dumps(plans[0])).averaging), "exchange": plans[0]["exchange"]}
        row |= {"periods": f"{min(periods)} to {max(periods)}", "step_s": fmean(map(max, late))}
        rows.append(row | {"sending_s": sending, "sent_after": " ".join(f"{one:.3f}" for one in sending)})
    whole, target = next(row["curve"][-1] for row in rows if row["method"] == BASELINE)
    for row in rows:
        row["to_target_s"] = [reach(curve, target) for curve in row["curves"]]
        row["to_target"] = " ".join("never" if one is None else f"{one:.1f}" for one in row["to_target_s"])
        row["speedup"] = whole / fmean(row["to_target_s"]) if None not in row["to_target_s"] else None
    return rows


def late_step_s(boundaries: Sequence[float]) -> float:
    """Seconds per step over the second half, when planning is long over."""
    half = len(boundaries) // 2
    return (boundaries[-1] - boundaries[half]) / (len(boundaries) - 1 - half)


def draw(folder: Path, by_scenario: Mapping[str, Sequence[Mapping]], _: Store) -> list[Path]:
    """What runs of several lengths end with, over their seconds, one panel for each kind of links."""
    from benchmarks.pictures import draw_over_seconds

    panels = {
        name: [(row["method"], None, "-", row["curve"], None) for row in rows if len(row["curve"]) > 1]
        for name, rows in by_scenario.items()
    }
    target = {name: rows[0]["curve"][-1][1] for name, rows in by_scenario.items()}
    return draw_over_seconds(folder / "unequal.png", panels, target)


def main(arguments: list[str] | None = None) -> int:
    """Runs both scenarios, or the one asked for, and reports both as they were last found; returns the exit code."""
    parser = arguments_of(__doc__)
    parser.add_argument("--only", choices=SCENARIOS, help="run this one, and report the other as it was last found")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the baseline; default: {STEPS}")
    options = parser.parse_args(arguments)
    if options.steps < LEAST_STEPS:
        parser.error(f"--steps {options.steps}: must be at least {LEAST_STEPS}.")
    wanted = [one for name in SCENARIOS if options.only in (None, name) for one in jobs(name, options.steps)]
    return run_study(
        "unequal",
        options,
        jobs=lambda _: wanted,
        figures=lambda store: {name: rows for name in SCENARIOS if (rows := figures(name, options.steps, store))},
        tables=lambda every: [Table(f"four sites, {name}", COLUMNS, rows) for name, rows in every.items()],
        draw=draw,
    )


if __name__ == "__main__":
    sys.exit(main())
