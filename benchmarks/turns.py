# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Step times of methods that take turns: `python -m benchmarks.turns gpt2_small | accelerator | zero | links`.

- `gpt2_small`: GPT-2 as published (124 M parameters, fresh weights), two emulated sites at 1 Gbit/s: no communication,
  geo_accel with everything "auto", LocalSGD with its period, DDP. Up to 17 minutes, 16 GB.
- `accelerator`: the same model in bf16, two sites that share one accelerator and talk over loopback: what rounds take
  from it.
- `zero`: DeepSpeed ZeRO-1 on a model of 8.5 M parameters, two emulated sites at 100 Mbit/s: as it is, with a
  "geo_accel" block in its JSON, and each site for itself.
- `links`: the demo's model on two emulated sites at 100 Mbit/s, in one job over gloo and with a job per site over
  links, run after run.

Writes runs/STUDY/results.json and table.md. Exits with 1 where nothing could be run.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from benchmarks.kit.figures import mean, step_s, turn_figures
from benchmarks.kit.job import DEMO, GPT2_SMALL, LARGE, Job
from benchmarks.kit.report import Table
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, run_study

NAMES = {"none": "no communication", "geo": 'geo_accel, "auto"', "local_sgd": "LocalSGD", "ddp": "DDP"}
ZERO_NAMES = {"none": "ZeRO-1, no network", "geo": 'ZeRO-1 with "geo_accel": {}', "ddp": "ZeRO-1 as it is"}
COLUMNS = {
    "method": "{name}",
    "step s": "{step_s:.4f}",
    "efficiency": "{efficiency:.3f}",
    "by run": "{by_run}",
    "longer steps": "{longer:+.2%}",
    "speed / DDP": "{over_ddp:.2f}",
    "MB sent per step": "{sent_mb:.2f}",
    "waited ms": "{waited_ms:.2f}",
    "peak MiB": "{peak_mib:.0f}",
    "plan": "H = {plan[period]}, {plan[codec]}, delay {plan[delay]}",
}

_SENDS = {"sync": {"period": 6, "delay": 1}, "compression": {"codec": "int2"}}
"""What the demo chose, the same in every run."""
_BOTH = Job(setting=GPT2_SMALL, method="turns", data="random", rate=1e-4)
_SHARED = replace(GPT2_SMALL, block=512, batch=8, precision="bf16")
_ZERO = replace(_BOTH, setting=LARGE, rate=5e-4, zero=1)
_LINKS = replace(_BOTH, setting=DEMO, turns=12, shared=False, config=_SENDS)
JOBS = {
    "gpt2_small": [replace(_BOTH, mbps=(1000.0,), turns=3, others=("local_sgd", "ddp"))],
    "accelerator": [replace(_BOTH, place="gpu", setting=_SHARED, turns=5, least_steps=20)],
    # An engine that keeps gradients in its site and one that does not can take no turns in one process.
    "zero": [
        replace(_ZERO, turns=12, least_steps=4),
        replace(_ZERO, method="ddp", steps=14, warmup=4),
    ],
    "links": [
        replace(_LINKS, seed=seed, apart=apart) for seed in range(4) for apart in (bool(seed % 2), not seed % 2)
    ],
}


def figures(jobs: Sequence[Job], results: Store) -> list[dict] | None:
    """One row per method: seconds per step on the slowest site, and what is known of it besides; None unless all jobs
    were run. Step times are medians over turns, efficiencies medians of the quotients turn by turn."""
    if not all(results.find(job) for job in jobs):
        return None
    sites, *alone = [results.find(job)["recordings"] for job in jobs]
    found, names = turn_figures(sites), NAMES if jobs[0].zero is None else ZERO_NAMES
    for ddp in alone:
        sent, count, second = ddp[0]["sent"], jobs[1].steps - jobs[1].warmup, step_s(ddp, jobs[1].warmup)
        found["ddp"] = {"step_s": second, "efficiency": found["none"]["step_s"] / second}
        found["ddp"]["wan_bytes_per_step"] = (sent[-1] - sent[-1 - count]) / count
    found["geo"] |= {"plan": sites[0]["geo"]["plan"], "waited_ms": 1e3 * found["geo"]["waited_s"]}
    for one in found.values():
        one["over_ddp"] = found["ddp"]["step_s"] / one["step_s"] if "ddp" in found else None
        one["sent_mb"] = one["wan_bytes_per_step"] / 1e6 if jobs[0].place == "lab" else None
        one["peak_mib"] = one.get("peak", 0) / 2**20 or None
    return [{"name": name, **found[method]} for method, name in names.items() if method in found]


def beside(jobs: Sequence[Job], results: Store) -> list[dict] | None:
    """One row for gloo and one for links, over all runs and turns; None unless all jobs were run."""
    if not all(results.find(job) for job in jobs):
        return None
    rows = []
    for apart, name in ((False, "one job, gloo"), (True, "a job per site, links")):
        runs = [turn_figures(results.find(job)["recordings"]) for job in jobs if job.apart == apart]
        shares = [share for one in runs for share in one["geo"]["efficiency_by_turn"]]
        sent_mb = mean(one["geo"]["wan_bytes_per_step"] for one in runs) / 1e6
        step = median(one["geo"]["step_s"] for one in runs)
        by_run = " ".join(f"{one['geo']['efficiency']:.3f}" for one in runs)
        rows.append({"name": name, "step_s": step, "efficiency": median(shares), "by_run": by_run, "sent_mb": sent_mb})
    rows[1]["longer"] = rows[0]["efficiency"] / rows[1]["efficiency"] - 1
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = arguments_of(__doc__)
    parser.add_argument("study", choices=JOBS)
    options = parser.parse_args(arguments)
    jobs, title = JOBS[options.study], f"{options.study}: methods in turns"
    found = partial(beside if options.study == "links" else figures, jobs)
    return run_study(options.study, options, lambda _: jobs, found, lambda rows: [Table(title, COLUMNS, rows)])


if __name__ == "__main__":
    sys.exit(main())
