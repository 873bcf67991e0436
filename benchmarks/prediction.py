# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Does the time model tell the truth? Predicted against measured step times: `python -m benchmarks.prediction`.

Trains the demo's GPT-2 (8.4 M parameters) on two emulated sites for every bandwidth, mode and period. Each run
measures its own profile first, as users' runs do, and the plan made from it is timed over whole periods. Then the same
steps are timed without geo_accel: the machine's speed drifts, and what a step computes is the mean of before and
after. Every run is made twice, in opposite orders. Writes runs/prediction/table.md and results.json.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import fmean, median

from benchmarks.kit.job import DEMO, Job
from benchmarks.kit.report import Goal, Table, goals_table
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, run_study
from geo_accel.plan.plan import Plan
from geo_accel.plan.timeline import timeline
from geo_accel.profile.profile import Profile

BANDWIDTHS, PERIODS = (30.0, 100.0, 300.0), (2, 4, 8)
SCHEDULES = {"dreamddp": "backward", "stream": "stream"}
"""Schedules, and the mode that each was made for."""
COLUMNS = {
    "Mbit/s": "{mbps:g}",
    "schedule / mode": "{schedule} / {mode}",
    "H": "{period}",
    "compute s": "{compute_s:.3f}",
    "predicted s": "{predicted_s:.3f}",
    "measured s": "{measured_s:.3f}",
    "error": "{error:+.1%}",
}
# It measures and plans in ten; one period until what is in flight is what always is; then eight, or a period.
_PLANNING, _TIMED, _QUIET = 12, 8, 8
_BF16 = {"codec": "bf16"}


def jobs(bandwidths: Sequence[float], periods: Sequence[int]) -> list[Job]:
    cases = [(schedule, period) for period in periods for schedule in SCHEDULES]
    job = Job(setting=DEMO, method="geo", data="random", rate=5e-4, quiet=_QUIET, series="cases")
    return [
        replace(
            job,
            mbps=(mbps,),
            number=number,
            steps=_PLANNING + period + max(period, _TIMED),
            config={
                "sync": {"mode": SCHEDULES[schedule], "schedule": schedule, "period": period},
                "compression": _BF16,
            },
        )
        for mbps in bandwidths
        for number, order in enumerate((cases, cases[::-1]))
        for schedule, period in order
    ]


def compare(result: Mapping) -> tuple[float, float, float]:
    """Seconds per step of one run: computing alone, predicted, and measured on the slowest site."""
    sites = result["recordings"]
    seen = sites[0]["geo"]
    plan = Plan.from_json(json.dumps(seen["plan"]))
    profile = Profile.from_json(json.dumps(seen["profile"]))
    compute_s = fmean([profile.compute_s, max(median(site["quiet_s"]) for site in sites)])
    predicted = timeline(plan, profile.with_step(compute_s), len(sites)).step_s
    first = seen["adopted"] + plan.period
    periods = [[b - a for a, b in pairwise(site["boundaries"][first :: plan.period])] for site in sites]
    return compute_s, predicted, max(median(some) / plan.period for some in periods)


def rows(wanted: Sequence[Job], results: Store) -> list[dict]:
    """One row per case: what `compare` says, the mean of both runs, and the relative error."""
    runs: dict[tuple[float, str, int], list[tuple[float, float, float]]] = {}
    for job in wanted:
        if result := results.find(job):
            sync = job.config["sync"]
            runs.setdefault((*job.mbps, sync["schedule"], sync["period"]), []).append(compare(result))
    made = []
    for (mbps, schedule, period), found in runs.items():
        compute_s, predicted, measured = map(fmean, zip(*found, strict=True))
        row = {"mbps": mbps, "schedule": schedule, "mode": SCHEDULES[schedule], "period": period}
        row |= {"compute_s": compute_s, "predicted_s": predicted, "measured_s": measured}
        made.append(row | {"error": predicted / measured - 1})
    return made


def tables(found: Sequence[Mapping]) -> list[Table]:
    errors = [abs(row["error"]) for row in found]
    goals = [
        Goal(name="median error, as a share", wanted=0.05, measured=median(errors), at_most=True),
        Goal(name="worst error, as a share", wanted=0.15, measured=max(errors), at_most=True),
    ]
    return [Table("step time, predicted against measured", COLUMNS, found), goals_table("what was wanted", goals)]


def main(arguments: list[str] | None = None) -> int:
    """Runs every case; returns the exit code: 1 where a run failed."""
    parser = arguments_of(__doc__)
    parser.add_argument("--bandwidth-mbps", type=float, nargs="+", default=BANDWIDTHS, metavar="R")
    parser.add_argument("--periods", type=int, nargs="+", default=PERIODS, metavar="H")
    options = parser.parse_args(arguments)
    wanted = jobs(options.bandwidth_mbps, options.periods)
    return run_study("prediction", options, lambda _: wanted, partial(rows, wanted), tables)


if __name__ == "__main__":
    sys.exit(main())
