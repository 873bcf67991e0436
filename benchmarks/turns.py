# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Step times of methods that take turns in one run: `python -m benchmarks.turns gpt2_small | accelerator | zero`.

- `gpt2_small`: GPT-2 as published (124 M parameters, fresh weights), two emulated sites at 1 Gbit/s: no communication,
  geo_accel with everything "auto", LocalSGD with its period, DDP. Up to 17 minutes, 16 GB.
- `accelerator`: the same model in bf16, two sites that share one accelerator and talk over loopback: what rounds take
  from it.
- `zero`: DeepSpeed ZeRO-1 on a model of 8.5 M parameters, two emulated sites at 100 Mbit/s: as it is, with a
  "geo_accel" block in its JSON, and each site for itself.

Writes runs/STUDY/results.json and table.md. Exits with 1 where nothing could be run.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, median

from benchmarks.kit.job import GPT2_SMALL, LARGE, Job, Turns
from benchmarks.kit.report import Table, shown
from benchmarks.kit.store import Store
from benchmarks.kit.study import Study, arguments_of, run_study

NAMES = {"none": "no communication", "geo": 'geo_accel, "auto"', "local_sgd": "LocalSGD", "ddp": "DDP"}
ZERO_NAMES = {"none": "ZeRO-1, no network", "geo": 'ZeRO-1 with "geo_accel": {}', "ddp": "ZeRO-1 as it is"}
HEADINGS = ("method", "step s", "efficiency", "speed / DDP", "MB sent per step", "waited ms", "peak MiB", "plan")

_BOTH = Job(setting=GPT2_SMALL, method="turns", data="random", rate=1e-4)
JOBS = {
    "gpt2_small": [
        replace(_BOTH, mbps=(1000.0,), turns=Turns(count=3, others=("local_sgd", "ddp"))),
    ],
    "accelerator": [
        replace(
            _BOTH,
            place="gpu",
            setting=replace(GPT2_SMALL, block=512, batch=8, precision="bf16"),
            turns=Turns(count=5, least_steps=20),
        )
    ],
    "zero": [
        replace(_BOTH, setting=LARGE, rate=5e-4, zero=1, turns=Turns(count=12, least_steps=4)),
        Job(setting=LARGE, method="ddp", data="random", rate=5e-4, zero=1, steps=14, warmup=4),
    ],
}


def figures(results: Store, jobs: Sequence[Job]) -> list[dict] | None:
    """One row per method: seconds per step on the slowest site, and what is known of it besides.

    Step times are medians over turns, efficiencies medians of the quotients turn by turn.
    """
    found = [result["recordings"] for job in jobs if (result := results.find(job))]
    if len(found) < len(jobs):
        return None
    seconds = by_method(found[0])
    plan = found[0][0]["geo"]["plan"]
    rows = {
        method: {
            "step_s": median(turn[method] for turn in seconds if method in turn),
            "efficiency": median(turn["none"] / turn[method] for turn in seconds if method in turn),
            "sent": found[0][0]["sent"][method] if jobs[0].place == "lab" else None,
            "waited_s": max(site["waited_s"] for site in found[0]) if method == "geo" else None,
            "peak": max(site["peak"].get(method, 0) for site in found[0]) or None,
            "plan": {key: plan[key] for key in ("period", "codec", "delay", "reason")} if method == "geo" else None,
        }
        for method in NAMES
        if method in seconds[0]
    }
    for alone in found[1:]:
        rows["ddp"] = _alone(alone, jobs[1].warmup, rows["none"]["step_s"])
    return [{"method": method, **row} for method, row in rows.items()]


def by_method(sites: Sequence[Mapping]) -> list[dict[str, float]]:
    """By turn and method the seconds of a step on the slowest site."""
    return [
        {method: max(site[method] for site in turn) for method in turn[0]}
        for turn in zip(*(site["turns"] for site in sites), strict=True)
    ]


def _alone(sites: Sequence[Mapping], warmup: int, quiet_s: float) -> dict:
    """The row of a run that took no turns."""
    steps = [max(b - a for a, b in step) for step in zip(*(pairwise(one["boundaries"]) for one in sites), strict=True)]
    sent = sites[0]["sent"]
    step_s = fmean(steps[warmup:])
    sent_per_step = (sent[-1] - sent[warmup]) / (len(sent) - 1 - warmup)
    rest = dict.fromkeys(("waited_s", "peak", "plan"))
    return {"step_s": step_s, "efficiency": quiet_s / step_s, "sent": sent_per_step, **rest}


def tables(name: str, rows: Sequence[Mapping]) -> list[Table]:
    """One, with what was measured of each method."""
    ddp_s = next((row["step_s"] for row in rows if row["method"] == "ddp"), None)
    names = ZERO_NAMES if name == "zero" else NAMES
    body = [
        (
            names[row["method"]],
            f"{row['step_s']:.3f}" if row["step_s"] > 0.1 else f"{row['step_s']:.4f}",
            f"{row['efficiency']:.3f}",
            shown(ddp_s and ddp_s / row["step_s"], ".2f"),
            shown(row["sent"] and row["sent"] / 1e6, ".2f"),
            shown(row["waited_s"] and 1e3 * row["waited_s"], ".2f"),
            shown(row["peak"] and row["peak"] / 2**20, ".0f"),
            "H = {period}, {codec}, delay {delay}".format(**row["plan"]) if row["plan"] else "",
        )
        for row in rows
    ]
    return [Table(title=f"{name}: methods in turns", headings=HEADINGS, rows=body)]


def study(name: str) -> Study:
    return Study(
        name=name,
        command=f"python -m benchmarks.turns {name}",
        jobs=lambda results: JOBS[name],
        figures=lambda results: figures(results, JOBS[name]),
        tables=lambda rows: tables(name, rows),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = arguments_of(__doc__)
    parser.add_argument("study", choices=JOBS)
    options = parser.parse_args(arguments)
    if options.study == "accelerator":
        import torch

        if not torch.cuda.is_available():
            print("accelerator: torch sees none here", file=sys.stderr)
            return 1
    return run_study([study(options.study)], options)


if __name__ == "__main__":
    sys.exit(main())
