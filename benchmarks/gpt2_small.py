# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""GPT-2 as published (124 M parameters), two emulated sites at 1 Gbit/s: `python -m benchmarks.gpt2_small`.

Fresh weights; no communication, geo_accel with everything "auto", DDP and LocalSGD with geo_accel's period, two
periods of real training each, interleaved in one run: each is timed beside the others, because a machine's speed
drifts. Writes runs/gpt2-small/results.json and table.md.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from statistics import fmean, median
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.environment import steady
from benchmarks.tables import as_markdown, as_table
from geo_accel.lab import Lab, make_sites

RESULTS = Path("runs/gpt2-small")
SITES, BANDWIDTH_MBPS = 2, 1000.0
BATCH, BLOCK = 1, 128
"""Sequences per step and site, tokens per sequence."""
PERIODS = 2
GOAL = 0.95
NAMES = {"none": "no communication", "geo": 'geo_accel, "auto"', "local_sgd": "LocalSGD", "ddp": "DDP"}
_TIMEOUT_S = 1500.0


def main(arguments: list[str] | None = None) -> int:
    """Runs the sites; returns the exit code: 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        work(options.worker)
        return 0
    console = Console()
    folder = RESULTS.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("GPT-2 small, four methods in turn", total=None)
        result = Lab(
            [sys.executable, "-m", "benchmarks.gpt2_small", "--worker", str(folder)],
            make_sites(SITES, bandwidth_mbps=BANDWIDTH_MBPS),
            env=steady(),
        ).run(
            timeout_s=_TIMEOUT_S,
            on_output=lambda site, piece: bars.advance(bar, piece.count(b"block ") / SITES),
        )
    if result.exit_code or result.stopped_by:
        print(f"failed: {[site.exit_code for site in result.sites]}, {result.stopped_by}", file=sys.stderr)
        return 1
    sites = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(SITES)]
    rows = figures(sites)
    (folder / "results.json").write_text(json.dumps({"rows": rows, "sites": sites}, indent=1) + "\n")
    (folder / "table.md").write_text(as_markdown(HEADINGS, [cells(row) for row in rows]))
    console.print(as_table("GPT-2 small, two sites at 1 Gbit/s", HEADINGS, [cells(row) for row in rows], "method"))
    plan = sites[0]["plan"]
    console.print(f"plan: H = {plan['period']}, {plan['codec']}, delay {plan['delay']}: {plan['reason']}")
    geo = next(row for row in rows if row["method"] == "geo")
    console.print(f"efficiency {geo['efficiency']:.3f} (wanted at least {GOAL})", highlight=False)
    return 0


def work(folder: Path) -> None:
    """One site: all methods in one process, in blocks of steps."""
    import torch
    from accelerate import Accelerator
    from accelerate.local_sgd import LocalSGD
    from accelerate.utils import set_seed
    from transformers import GPT2Config, GPT2LMHeadModel

    from geo_accel import GeoSync

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    set_seed(0)
    config = GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    bare, other = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    other.load_state_dict(bare.state_dict())
    set_seed(accelerator.process_index)
    model, optimizer = accelerator.prepare(bare, torch.optim.AdamW(bare.parameters(), lr=1e-4))
    ddp, ddp_optimizer = accelerator.prepare(other, torch.optim.AdamW(other.parameters(), lr=1e-4))
    geo = GeoSync(accelerator=accelerator, model=model, optimizer=optimizer)
    steps: dict[str, list[float]] = {name: [] for name in NAMES}
    losses: list[float] = []

    def train(wrapped, stepper, after=lambda: None) -> float:
        begin = perf_counter()
        tokens = torch.randint(config.vocab_size, (BATCH, BLOCK))
        loss = wrapped(input_ids=tokens, labels=tokens).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        stepper.step()
        stepper.zero_grad()
        after()
        losses.append(loss.item())
        return perf_counter() - begin

    def block(name: str, count: int) -> None:
        """`count` timed steps of a method, after one or, for what is in flight to be there, as many as the delay."""
        print(f"block {name}", flush=True)
        accelerator.wait_for_everyone()
        if name == "none":
            run = [lambda: train(bare, optimizer)] * (count + 1)
            warm = 1
        elif name == "geo":
            warm = plan.delay
            run = [lambda: train(model, optimizer, geo.step)] * (count + warm)
        elif name == "ddp":
            warm = 1
            run = [lambda: train(ddp, ddp_optimizer)] * (count + 1)
        else:
            warm = 0
            run = [lambda: train(ddp, ddp_optimizer, local.step)] * count
        local = LocalSGD(accelerator=accelerator, model=ddp, local_sgd_steps=count)
        with local if name == "local_sgd" else contextlib.nullcontext():
            steps[name] += [one() for one in run][warm:]
        geo.engine.settle()

    while geo.engine.plan is None:
        train(model, optimizer, geo.step)
    plan = geo.engine.plan
    half = -(-plan.period // 2)
    for _ in range(PERIODS):
        for name, count in (("none", half), ("geo", plan.period), ("none", half)):
            block(name, count)
        block("local_sgd", plan.period)
        block("ddp", plan.period)
    record = {"steps": steps, "plan": json.loads(plan.to_json()), "losses": losses, "summary": geo.summary()}
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(record))
    geo.close()
    accelerator.end_training()


def figures(sites: list[dict]) -> list[dict]:
    """One row per method: seconds per step on the slowest site.

    Every step of the others does the same, so that their median counts; LocalSGD waits once per period, and its mean.
    """
    period = sites[0]["plan"]["period"]

    def step_s(name: str) -> float:
        if name == "local_sgd":
            return max(
                median(fmean(site["steps"][name][i : i + period]) for i in range(0, PERIODS * period, period))
                for site in sites
            )
        return max(median(site["steps"][name]) for site in sites)

    seconds = {name: step_s(name) for name in NAMES}
    return [
        {
            "method": name,
            "step_s": seconds[name],
            "mean_s": max(fmean(site["steps"][name]) for site in sites),
            "efficiency": seconds["none"] / seconds[name],
            "over_ddp": seconds["ddp"] / seconds[name],
            "steps": len(sites[0]["steps"][name]),
        }
        for name in NAMES
    ]


HEADINGS = ("method", "step s", "efficiency", "speed / DDP", "steps timed")


def cells(row: dict) -> tuple[str, ...]:
    """A row of the table, as text."""
    return (
        NAMES[row["method"]],
        f"{row['step_s']:.3f}",
        f"{row['efficiency']:.3f}",
        f"{row['over_ddp']:.2f} ×",
        str(row["steps"]),
    )


if __name__ == "__main__":
    sys.exit(main())
