# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The course of the demo: which runs, in which order, and what is made of them.

geo_accel goes first, because LocalSGD gets the period that geo_accel chose. These runs say what each method learns.
What a step takes is measured afterwards in one run, in which all of them take turns.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.kit.figures import Sites, reach, step_s, turn_figures
from benchmarks.kit.job import DEMO, Job
from benchmarks.kit.report import goal
from benchmarks.kit.runner import run_batch
from benchmarks.kit.store import Store

METHODS = {"none": "no communication", "ddp": "DDP", "local_sgd": "LocalSGD", "geo": "geo_accel"}
"""Names for people, in the order of tables and figures."""
_RUNS = {method: METHODS[method] for method in ("geo", "none", "ddp", "local_sgd")} | {"turns": "all in turns"}
LEAST_TURNS = 3
# The lab measures its links before each run, and a run starts and ends, in seconds.
_STARTING_S = 20.0
# Reading the results, drawing and generating at the end, in seconds.
_ENDING_S = 20.0

_JOB = Job(setting=DEMO, method="geo", data="documentation", rate=5e-4, steps=70, warmup=14, windows=2, seed=42)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What is trained, and for how long."""

    job: Job = _JOB
    """geo_accel's: in the first ten steps it measures and plans."""
    turns: int = 28
    """How often no communication and geo_accel take turns, a period each, for their step times."""
    others_every: int = 4
    """DDP and LocalSGD, whose steps are longer and whose figures need be less sharp, join every so many turns."""
    budget_s: float = 720.0
    """What the whole demo may take, in seconds; turns that would not fit are left out, but for `LEAST_TURNS`."""

    def turns_that_fit(self, seconds: Mapping[str, float], period: int, left_s: float) -> int:
        """How many turns `left_s` seconds are enough for, by the seconds of each method's step."""
        pair_s = (period + 1) * (seconds["none"] + seconds["geo"])
        others_s = (period + 1) * seconds["local_sgd"] + 3 * seconds["ddp"]
        fitting = int((left_s - _STARTING_S) / (pair_s + others_s / self.others_every))
        return max(min(self.turns, LEAST_TURNS), min(self.turns, fitting))


FULL = Demo()
QUICK = Demo(job=replace(FULL.job, steps=24, warmup=10), turns=8, others_every=8, budget_s=240.0)


@dataclass(slots=True)
class Course:
    """All runs: results by method, and the one in turns as "turns"."""

    runs: dict[str, dict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures should know, one line each."""

    def sites(self, method: str) -> Sites:
        return self.runs[method]["recordings"]

    @property
    def plan(self) -> dict:
        """geo_accel's first, which the turns keep."""
        return self.sites("geo")[0]["geo"]["plan"]

    @property
    def figures(self) -> dict[str, dict]:
        """By method what `turn_figures` says, the held-out loss of the averaged model at the end of its own run, and
        how many times faster than the others it is."""
        found = turn_figures(self.sites("turns"))
        for method, one in found.items():
            one["eval_loss"] = self.sites(method)[0]["loss"]
            one["speedup_over_ddp"] = one["efficiency"] / found["ddp"]["efficiency"]
            one["speedup_over_local_sgd"] = one["efficiency"] / found["local_sgd"]["efficiency"]
        return {method: found[method] for method in METHODS}


def compare(demo: Demo, folder: Path, console: Console, began: float) -> Course:
    """Runs every method; `began` is the demo's start (`time.monotonic`).

    Leaves geo_accel's trained model in `folder`/model and its traces in `folder`/trace. Raises as `run_batch` does.
    """
    store, course = Store(folder), Course()
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn()
    # The workers need the machine: two updates a second cost next to nothing.
    how = {"refresh_per_second": 2, "expand": True, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **how) as bars:
        tasks = {method: bars.add_task(name, start=False, total=demo.job.steps) for method, name in _RUNS.items()}

        def run(job: Job, **where: Path) -> None:
            method = job.method
            bars.start_task(tasks[method])
            bars.update(tasks[method], total=job.steps or None)
            follow = partial(bars.advance, tasks[method])
            (result,) = run_batch([job], store, follow, name=_RUNS[method], **where)
            bars.stop_task(tasks[method])
            course.runs[method], sites = result, result["recordings"]
            if method == "turns":
                what, each = f"{len(sites[0]['turns'])} turns", ""
            else:
                what, each = f"{len(sites[0]['losses'])} steps", f", {step_s(sites, job.warmup):.3f} s each"
            console.print(f"{_RUNS[method]}: {what} in {result['duration_s']:.0f} s{each}", highlight=False)

        run(demo.job, trace=folder / "trace", save=folder / "model")
        period, steps = course.plan["period"], len(course.sites("geo")[0]["losses"])
        other = replace(demo.job, steps=steps, windows=0)
        run(replace(other, method="none"))
        run(replace(other, method="ddp", checks=tuple(sorted({steps * tenths // 10 for tenths in range(5, 11)}))))
        run(replace(other, method="local_sgd", period=period))
        seconds = {method: step_s(course.sites(method), demo.job.warmup) for method in METHODS}
        left_s = demo.budget_s - _ENDING_S - (time.monotonic() - began)
        count = demo.turns_that_fit(seconds, period, left_s)
        file = folder / "plan.json"
        file.write_text(json.dumps(course.plan))
        others = {"others": ("local_sgd", "ddp"), "others_every": demo.others_every, "shared": False}
        config = {"sync": {"schedule": "manual", "plan": str(file)}}
        run(replace(other, method="turns", steps=0, turns=count, config=config, **others))
    course.notes = sorted({note for one in course.runs.values() for note in one["notes"]})
    if count < demo.turns:
        course.notes.append(f"{demo.turns - count} of {demo.turns} turns were left out for lack of time")
    return course


def targets(figures: Mapping[str, Mapping], checks: Sequence[tuple[int, float]]) -> list[dict]:
    """What geo_accel promises for this demo, beside what was measured; `checks` are DDP's.

    All are shares of what no network at all gives, so that they mean the same on fast and on slow machines.
    """
    steps, learnt = checks[-1][0], reach(checks, figures["geo"]["eval_loss"])
    share, efficiency = (steps if learnt is None else learnt) / steps, figures["geo"]["efficiency"]
    return [
        goal("efficiency: speed, as a share of no network's", 0.95, efficiency),
        goal("learning: DDP's steps to geo_accel's loss, per step", 0.85, share),
        goal("both: time to that loss, DDP's without a network per geo_accel's", 0.85, efficiency * share),
    ]


def summarise(demo: Demo, course: Course) -> dict:
    """Every figure, ready for JSON: seconds, bytes, nats per token; `*_mbps` in 10**6 bits per second."""
    figures, geo, checks = course.figures, course.sites("geo")[0], course.sites("ddp")[0]["checks"]
    done = {"steps": len(geo["losses"]), "tokens_per_step": demo.job.tokens_per_step, "parameters": geo["parameters"]}
    return {
        **{name: {method: one[name] for method, one in figures.items()} for name in figures["geo"]},
        "plan": course.plan,
        "targets": targets(figures, checks),
        "ddp_eval_loss_by_step": checks,
        "geo": {key: value for key, value in geo["geo"].items() if key != "plan"},
        "setting": asdict(demo) | done,
        "runs": [
            {"method": method} | {key: one[key] for key in ("duration_s", "link_mbps")}
            for method, one in course.runs.items()
        ],
        "notes": course.notes,
    }
