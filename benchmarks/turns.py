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
from functools import partial

from benchmarks.kit.figures import mean_step_s, turn_figures
from benchmarks.kit.job import GPT2_SMALL, LARGE, Job, Turns
from benchmarks.kit.report import Table
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, run_study

NAMES = {"none": "no communication", "geo": 'geo_accel, "auto"', "local_sgd": "LocalSGD", "ddp": "DDP"}
ZERO_NAMES = {"none": "ZeRO-1, no network", "geo": 'ZeRO-1 with "geo_accel": {}', "ddp": "ZeRO-1 as it is"}
COLUMNS = {
    "method": "{name}",
    "step s": "{step_s:.4f}",
    "efficiency": "{efficiency:.3f}",
    "speed / DDP": "{over_ddp:.2f}",
    "MB sent per step": "{sent_mb:.2f}",
    "waited ms": "{waited_ms:.2f}",
    "peak MiB": "{peak_mib:.0f}",
    "plan": "H = {plan[period]}, {plan[codec]}, delay {plan[delay]}",
}

_BOTH = Job(setting=GPT2_SMALL, method="turns", data="random", rate=1e-4)
JOBS = {
    "gpt2_small": [replace(_BOTH, mbps=(1000.0,), turns=Turns(count=3, others=("local_sgd", "ddp")))],
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


def figures(jobs: Sequence[Job], results: Store) -> list[dict] | None:
    """One row per method: seconds per step on the slowest site, and what is known of it besides.

    Step times are medians over turns, efficiencies medians of the quotients turn by turn.
    """
    found = [result["recordings"] for job in jobs if (result := results.find(job))]
    if len(found) < len(jobs):
        return None
    names, plan = ZERO_NAMES if jobs[0].zero is not None else NAMES, found[0][0]["geo"]["plan"]
    by_method = turn_figures(found[0])
    by_method["geo"] |= {
        "waited_ms": max(1e3 * site["waited_s"] for site in found[0]),
        "plan": {key: plan[key] for key in ("period", "codec", "delay", "reason")},
    }
    for sites in found[1:]:  # what took no turns
        seconds, sent = mean_step_s(sites, jobs[1].warmup), sites[0]["sent"]
        share, steps = by_method["none"]["step_s"] / seconds, len(sent) - 1 - jobs[1].warmup
        by_method["ddp"] = {"step_s": seconds, "efficiency": share, "sent": (sent[-1] - sent[-1 - steps]) / steps}
    ddp_s = by_method["ddp"]["step_s"] if "ddp" in by_method else None
    rows = [{"name": name, **by_method[method]} for method, name in names.items() if method in by_method]
    for row, method in zip(rows, [one for one in names if one in by_method], strict=True):
        row["over_ddp"] = ddp_s and ddp_s / row["step_s"]
        row["sent_mb"] = row["sent"] / 1e6 if jobs[0].place == "lab" else None
        row["peak_mib"] = max(site["peak"].get(method, 0) for site in found[0]) / 2**20 or None
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = arguments_of(__doc__)
    parser.add_argument("study", choices=JOBS)
    options = parser.parse_args(arguments)
    jobs = JOBS[options.study]

    def tables(rows: Sequence[Mapping]) -> list[Table]:
        return [Table(f"{options.study}: methods in turns", COLUMNS, rows)]

    return run_study(options.study, options, lambda _: jobs, partial(figures, jobs), tables)


if __name__ == "__main__":
    sys.exit(main())
