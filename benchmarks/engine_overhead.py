# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What the engine costs at a step boundary where nothing starts or finishes: `python -m benchmarks.engine_overhead`.

Trains the demo's GPT-2 with two processes on loopback, with a period so long that most boundaries are idle, and
compares the time inside `GeoSync.step` at those with the time of a whole step. The goal is less than 1 %.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.demo.setting import FULL
from geo_accel import GeoSync
from geo_accel.testing.launch import run_workers

GOAL = 0.01
_PERIOD = 20
_STEPS = 60
_SKIPPED = 4
_TIMEOUT_S = 400.0
_CONFIG = {
    "sync": {"mode": "stream", "schedule": "full", "period": _PERIOD, "delay": 1},
    "compression": {"codec": "bf16"},
}


def main(arguments: list[str] | None = None) -> int:
    """Runs both processes and prints the shares; returns the exit code: 1 where a process failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        work(options.worker)
        return 0
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        with console.status(f"training {_STEPS} steps on two processes"):
            finished = run_workers(
                ["benchmarks.engine_overhead", "--worker", folder],
                timeout_s=_TIMEOUT_S,
                environ={"GEO_ACCEL_TRACE": ""},
            )
        for rank, worker in enumerate(finished):
            if worker.returncode:
                print(f"rank {rank} failed:\n{worker.output[-3000:]}", file=sys.stderr)
                return 1
        ranks = [json.loads(Path(folder, f"rank-{rank}.json").read_text()) for rank in range(len(finished))]
    rows = [summarise(**one) for one in ranks]
    console.print(overhead_table(rows))
    if options.json is not None:
        share = max(one["share"] for one in rows)
        options.json.write_text(json.dumps({"share": share, "held": share < GOAL, "ranks": rows}, indent=1) + "\n")
    return 0


def work(folder: Path) -> None:
    """One process: trains, and writes each step's seconds, those inside `GeoSync.step`, and whether it idled."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    set_seed(FULL.seed)
    model = GPT2LMHeadModel(GPT2Config(**FULL.model_sizes))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=FULL.learning_rate))
    step_s, inside_s = [], []
    with GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=_CONFIG) as geo:
        for _ in range(_STEPS):
            start = perf_counter()
            tokens = torch.randint(FULL.vocabulary, (FULL.batch, FULL.block))
            accelerator.backward(model(input_ids=tokens, labels=tokens).loss)
            accelerator.clip_grad_norm_(model.parameters(), FULL.clip)
            optimizer.step()
            optimizer.zero_grad()
            before = perf_counter()
            geo.step()
            stop = perf_counter()
            step_s.append(stop - start)
            inside_s.append(stop - before)
    plan = geo.engine.plan
    starts = [bool(plan.rounds[(step - geo.engine.adopted) % plan.period]) for step in range(1, _STEPS + 1)]
    idle = [not starts[i] and not (i >= plan.delay and starts[i - plan.delay]) for i in range(_STEPS)]
    record = {"step_s": step_s[_SKIPPED:], "inside_s": inside_s[_SKIPPED:], "idle": idle[_SKIPPED:]}
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(record))


def summarise(step_s: list[float], inside_s: list[float], idle: list[bool]) -> dict[str, float]:
    """One rank's figures: seconds, and `share`, the median idle boundary as a part of the median step."""
    quiet = [seconds for seconds, nothing in zip(inside_s, idle, strict=True) if nothing]
    busy = [seconds for seconds, nothing in zip(inside_s, idle, strict=True) if not nothing]
    return {
        "step_s": median(step_s),
        "idle_boundaries": len(quiet),
        "idle_s": median(quiet),
        "idle_p95_s": quantiles(quiet, n=20, method="inclusive")[-1],
        "busy_s": median(busy),
        "share": median(quiet) / median(step_s),
    }


def overhead_table(rows: list[dict[str, float]]) -> Table:
    """One row per rank, and whether the goal is reached."""
    held = all(row["share"] < GOAL for row in rows)
    verdict = "reached" if held else "NOT reached"
    table = Table(
        title="GeoSync.step where nothing starts or finishes",
        caption=f"goal: less than {GOAL:.0%} of a step: {verdict}",
    )
    for heading in ("rank", "step ms", "idle boundaries", "idle µs", "95th percentile µs", "busy µs", "share"):
        table.add_column(heading, justify="right")
    for rank, row in enumerate(rows):
        table.add_row(
            str(rank),
            f"{row['step_s'] * 1e3:.1f}",
            f"{row['idle_boundaries']:.0f}",
            f"{row['idle_s'] * 1e6:.1f}",
            f"{row['idle_p95_s'] * 1e6:.1f}",
            f"{row['busy_s'] * 1e6:.0f}",
            f"{row['share']:.4%}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
