# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Does the time model tell the truth? Predicted against measured step times: `python -m benchmarks.prediction`.

Trains the demo's GPT-2 (8.4 M parameters) on two emulated sites for every bandwidth, mode and period. Each run
measures its own profile first, as users' runs do. Then steps without communication and a period of the plan made from
it take turns: the machine's speed drifts, and the model is asked about the computing that the measured steps did.
Writes runs/prediction/table.md and results.json.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from benchmarks.kit.figures import turn_figures
from benchmarks.kit.job import DEMO, Job
from benchmarks.kit.report import Table, goal, goals_table
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, run_study
from geo_accel.plan.members import Members
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
# With a bare twin: in mode "backward" rounds start from hooks in the model.
_JOB = Job(setting=DEMO, method="turns", data="random", rate=5e-4, turns=6, shared=False)


def jobs(bandwidths: Sequence[float], periods: Sequence[int]) -> list[Job]:
    configs = [
        {"sync": {"mode": mode, "schedule": schedule, "period": period}, "compression": {"codec": "bf16"}}
        for period in periods
        for schedule, mode in SCHEDULES.items()
    ]
    return [replace(_JOB, mbps=(mbps,), config=config) for mbps in bandwidths for config in configs]


def rows(wanted: Sequence[Job], results: Store) -> list[dict]:
    """One row per case that was run: seconds per step, computing alone, predicted and measured, and the error."""
    made = []
    for job in wanted:
        if result := results.find(job):
            sites = result["recordings"]
            figures, seen = turn_figures(sites), sites[0]["geo"]
            compute_s, measured = figures["none"]["step_s"], figures["geo"]["step_s"]
            profile = Profile.from_json(json.dumps(seen["profile"])).with_step(compute_s)
            predicted = timeline(Plan.from_json(json.dumps(seen["plan"])), profile, Members(len(sites))).step_s
            row = {"mbps": job.mbps[0], **job.config["sync"], "compute_s": compute_s, "predicted_s": predicted}
            made.append(row | {"measured_s": measured, "error": predicted / measured - 1})
    return made


def tables(found: Sequence[Mapping]) -> list[Table]:
    errors = [abs(row["error"]) for row in found]
    goals = [
        goal("median error, as a share", 0.05, median(errors), at_most=True),
        goal("worst error, as a share", 0.15, max(errors), at_most=True),
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
