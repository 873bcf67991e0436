# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Does the time model tell the truth? Predicted against measured step times: `python -m benchmarks.prediction`.

Trains the demo's GPT-2 (8.4 M parameters) on two emulated sites for every bandwidth, mode and period. Each run
measures its own profile first, as users' runs do, and the plan made from it is timed over whole periods. Then the same
steps are timed without geo_accel: the machine's speed drifts, and what a step computes is the mean of before and
after. Every run is made twice, in opposite orders. Writes runs/prediction/table.md and results.json.
"""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.demo.setting import FULL
from benchmarks.kit.environment import steady
from benchmarks.tables import as_markdown, as_table
from geo_accel.lab import Lab, make_sites
from geo_accel.plan.plan import Plan
from geo_accel.plan.timeline import timeline
from geo_accel.profile.profile import Profile

RESULTS = Path("runs/prediction")
BANDWIDTHS = (30.0, 100.0, 300.0)
PERIODS = (2, 4, 8)
SCHEDULES = {"dreamddp": "backward", "stream": "stream"}
"""Schedules, and the mode that each was made for."""
MEDIAN_GOAL, WORST_GOAL = 0.05, 0.15
_CODEC = "bf16"
_TIMED_STEPS = 8
_QUIET_STEPS = 8
_TIMEOUT_S = 900.0


def main(arguments: list[str] | None = None) -> int:
    """Runs every case; returns the exit code: 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bandwidth-mbps", type=float, nargs="+", default=BANDWIDTHS, metavar="R")
    parser.add_argument("--periods", type=int, nargs="+", default=PERIODS, metavar="H")
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    cases = [(schedule, period) for period in options.periods for schedule in SCHEDULES]
    if options.worker is not None:
        work(options.worker, cases)
        return 0
    console, rows = Console(), []
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bars:
        for mbps in options.bandwidth_mbps:
            folder = (RESULTS / f"{mbps:g}").resolve()
            folder.mkdir(parents=True, exist_ok=True)
            bar = bars.add_task(f"{mbps:g} Mbit/s", total=2 * len(cases))
            command = [sys.executable, "-m", "benchmarks.prediction", "--worker", str(folder)]
            result = Lab(
                [*command, "--periods", *map(str, options.periods)],
                make_sites(FULL.sites, bandwidth_mbps=mbps),
                env=steady(),
            ).run(
                timeout_s=_TIMEOUT_S,
                on_output=lambda site, piece, bar=bar: bars.advance(bar, piece.count(b"case ") / FULL.sites),
            )
            if result.exit_code or result.stopped_by:
                print(f"{mbps:g} Mbit/s failed: {[site.exit_code for site in result.sites]}", file=sys.stderr)
                return 1
            rows += [row | {"mbps": mbps} for row in compare(folder)]
    (RESULTS / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "table.md").write_text(as_markdown(HEADINGS, [cells(row) for row in rows]))
    console.print(
        as_table("step time: predicted against measured", HEADINGS, [cells(row) for row in rows], "schedule / mode")
    )
    errors = [abs(row["error"]) for row in rows]
    console.print(
        f"median error {median(errors):.1%} (wanted at most {MEDIAN_GOAL:.0%}), worst {max(errors):.1%} "
        f"(wanted at most {WORST_GOAL:.0%})",
        highlight=False,
    )
    return 0


def work(folder: Path, cases: list[tuple[str, int]]) -> None:
    """One site: every case in one process, from the same weights."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from transformers import GPT2Config, GPT2LMHeadModel

    from geo_accel import GeoSync

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    set_seed(FULL.seed)
    bare = GPT2LMHeadModel(GPT2Config(**FULL.model_sizes, bos_token_id=0, eos_token_id=0))
    start = {name: value.clone() for name, value in bare.state_dict().items()}
    tokens = torch.randint(FULL.vocabulary, (FULL.batch, FULL.block))
    results = []
    for schedule, period in cases + cases[::-1]:
        bare.load_state_dict(start)
        optimizer = torch.optim.AdamW(bare.parameters(), lr=FULL.learning_rate)
        model, optimizer = accelerator.prepare(bare, optimizer)

        def train(model=model, optimizer=optimizer) -> None:
            accelerator.backward(model(input_ids=tokens, labels=tokens).loss)
            accelerator.clip_grad_norm_(model.parameters(), FULL.clip)
            optimizer.step()
            optimizer.zero_grad()

        config = {
            "sync": {"mode": SCHEDULES[schedule], "schedule": schedule, "period": period},
            "compression": {"codec": _CODEC},
        }
        geo = GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=config)
        boundaries: list[float] = []
        while len(boundaries) <= max(period, _TIMED_STEPS):
            train()
            geo.step()
            plan = geo.engine.plan
            # One period until what is in flight is what always is.
            if plan is not None and geo.engine.step_count >= geo.engine.adopted + period:
                boundaries.append(perf_counter())
        profile = geo.engine.profile
        geo.engine.settle()
        geo.close()
        quiet = []
        for _ in range(_QUIET_STEPS):
            begin = perf_counter()
            train()
            quiet.append(perf_counter() - begin)
        results.append(
            {
                "schedule": schedule,
                "period": period,
                "boundaries": boundaries,
                "quiet_s": median(quiet),
                "plan": plan.to_json(),
                "profile": profile.to_json(),
            }
        )
        accelerator.free_memory()
        print(f"case {len(results)}", flush=True)
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(results))
    accelerator.end_training()


def compare(folder: Path) -> list[dict]:
    """One row per case: seconds per step, predicted and measured on the slowest site, and the relative error."""
    sites = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(FULL.sites)]
    runs: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for case in zip(*sites, strict=True):
        plan, profile = Plan.from_json(case[0]["plan"]), Profile.from_json(case[0]["profile"])
        compute_s = fmean([profile.compute_s, max(site["quiet_s"] for site in case)])
        course = timeline(plan, profile.with_step(compute_s), FULL.sites)
        measured = max(
            median((b - a) / plan.period for a, b in pairwise(site["boundaries"][:: plan.period])) for site in case
        )
        runs.setdefault((plan.schedule, plan.period), []).append((compute_s, course.step_s, measured))
    rows = []
    for (schedule, period), figures in runs.items():
        compute_s, predicted, measured = map(fmean, zip(*figures, strict=True))
        rows.append(
            {
                "schedule": schedule,
                "mode": SCHEDULES[schedule],
                "period": period,
                "compute_s": compute_s,
                "predicted_s": predicted,
                "measured_s": measured,
                "error": predicted / measured - 1,
            }
        )
    return rows


HEADINGS = ("Mbit/s", "schedule / mode", "H", "compute s", "predicted s", "measured s", "error")


def cells(row: dict) -> tuple[str, ...]:
    """A row of the table, as text."""
    return (
        f"{row['mbps']:g}",
        f"{row['schedule']} / {row['mode']}",
        str(row["period"]),
        f"{row['compute_s']:.3f}",
        f"{row['predicted_s']:.3f}",
        f"{row['measured_s']:.3f}",
        f"{row['error']:+.1%}",
    )


if __name__ == "__main__":
    sys.exit(main())
