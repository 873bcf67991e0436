# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The comparison from its first run to its report."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.loss.clock.drawing import draw
from benchmarks.loss.clock.figures import summarise, targets
from benchmarks.loss.clock.jobs import BANDWIDTH_MBPS, FACTORS, SEEDS, SITES, trainings
from benchmarks.loss.clock.running import Results
from benchmarks.loss.material import Material, make_material
from benchmarks.loss.provenance import provenance
from benchmarks.loss.setting import LARGE, LARGE_RATES
from benchmarks.tables import as_markdown, as_table

HEADINGS = ("method", "rate", "steps", "loss", "seeds", "step s", "whole s")


def clock(task: str, folder: Path, console: Console, minutes: float | None) -> dict:
    """Makes the runs that are missing, prints, and writes clock-TASK.json, .md and .png; returns the summary.

    After `minutes` no run is started any more. Raises as `Results.run` does.
    """
    until = None if minutes is None else time.monotonic() + 60 * minutes
    with console.status("texts, tokenizer and pretrained weights") as status:
        material = make_material(
            LARGE, folder, on_step=lambda step: status.update(f"pretraining, step {step} of {LARGE.pretraining_steps}")
        )
    results = Results(folder / "clock", LARGE, material, Material.read(material).digests)
    complete = _run(task, results, console, lambda: until is not None and time.monotonic() > until)
    summary = summarise(task, results, SEEDS[task])
    summary |= {
        "complete": complete,
        "setting": {
            "sites": SITES,
            "bandwidth_mbps": BANDWIDTH_MBPS,
            "step_factors": list(FACTORS),
            "learning_rates_base": list(LARGE_RATES),
        },
        "provenance": provenance(LARGE, SEEDS[task], f"python -m benchmarks.loss --only clock{_suffix(task)}"),
    }
    body = rows(summary)
    name = f"clock{_suffix(task)}"
    (folder / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")
    (folder / f"{name}.md").write_text(as_markdown(HEADINGS, body))
    console.print(as_table(f"{task}, two sites at {BANDWIDTH_MBPS:g} Mbit/s", HEADINGS, body, "method"))
    marks = {True: "yes", False: "NO", None: ""}
    goals = [(what, goal, measured, marks[held]) for what, goal, measured, held in targets(summary)]
    console.print(as_table("what was promised", ("target", "goal", "measured", "held"), goals, "target"))
    written = [f"{name}.json", f"{name}.md"]
    if draw(folder / f"{name}.png", task, summary, results):
        written.append(f"{name}.png")
    console.print(f"written to {folder}: {', '.join(written)}", highlight=False)
    if not complete:
        console.print("the time was over before everything was run: the same command goes on from here")
    return summary


def _run(task: str, results: Results, console: Console, over: Callable[[], bool]) -> bool:
    """Runs what is missing; returns whether nothing is left."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, refresh_per_second=1) as bars:
        whole = bars.add_task("all runs", total=None)
        while True:
            jobs = trainings(task, results.loss, SEEDS[task])
            missing = [job for job in jobs if results.find(job) is None]
            bars.update(whole, total=len(jobs), completed=len(jobs) - len(missing))
            if not missing:
                return True
            if over():
                return False
            job = missing[0]
            bar = bars.add_task(job.name, total=job.steps if job.place == "lab" else None)
            results.run(job, lambda steps, bar=bar: bars.advance(bar, steps))
            bars.remove_task(bar)


def rows(summary: dict) -> list[tuple[str, ...]]:
    """The table's: DDP, and geo_accel with as many and with more steps."""
    runs, steps = summary["runs"], LARGE.steps
    ddp_s = summary["ddp_step_s"]
    result = [
        (
            "DDP",
            _shown(summary["learning_rates"]["ddp"], "g"),
            str(steps),
            *_mean(summary["ddp_loss"]),
            _shown(ddp_s, ".3f"),
            _shown(None if ddp_s is None else steps * ddp_s, ".0f"),
        )
    ]
    rate = summary["learning_rates"]["geo"]
    for factor, losses in summary["geo_loss"].items():
        own = [one for one in runs if one["rate"] == rate and one["steps"] == round(float(factor) * steps)]
        result.append(
            (
                'geo_accel, "auto"',
                _shown(rate, "g"),
                str(round(float(factor) * steps)),
                *_mean(losses),
                _shown(_average(one["step_s"] for one in own), ".3f"),
                _shown(_average(one["whole_s"] for one in own), ".0f"),
            )
        )
    return result


def _mean(losses: dict[str, float]) -> tuple[str, str]:
    return _shown(_average(losses.values()), ".4f"), str(len(losses))


def _average(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _suffix(task: str) -> str:
    return "" if task == "finetune" else f"-{task}"
