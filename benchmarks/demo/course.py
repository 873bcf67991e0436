# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The course of the demo: which runs, in which order, and what each is told.

geo_accel goes first, because LocalSGD gets the period that geo_accel chose. Where time allows, no communication and
geo_accel are run once more in the opposite order (A B ... B A), so that a machine that slowly gets faster or slower
favours neither.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.demo.progress import Bars
from benchmarks.demo.runs import Run, run_method
from benchmarks.demo.setting import METHODS, Setting

# Reading the results, drawing and generating at the end, in seconds.
_ENDING_S = 20.0


@dataclass(slots=True, kw_only=True)
class Course:
    """All runs that count."""

    runs: dict[str, list[Run]]
    """By method, first ones first."""
    plan: dict
    """geo_accel's."""
    notes: list[str]
    """What a reader of the figures should know, one line each."""


def compare(setting: Setting, folder: Path, bars: Bars, began: float) -> Course:
    """Runs every method over the material in `folder`; `began` is the demo's start (`time.monotonic`).

    Leaves geo_accel's trained model in `folder`/model and its traces in `folder`/trace. Raises as `run_method` does.
    """
    first = ["geo", "none", "ddp", "local_sgd"]
    again = {"none-again": "none", "geo-again": "geo"} if setting.repeat else {}
    for method in first:
        bars.plan(method, method, METHODS[method], setting.steps)
    for label, method in again.items():
        bars.plan(label, method, f"{METHODS[method]}, again", setting.steps)

    def run(method: str, label: str, steps: int, **how: object) -> Run:
        on_step = bars.begin(label, steps)
        done = run_method(setting, method, folder, steps=steps, label=label, on_step=on_step, since=began, **how)
        bars.end(label, _told(done, setting.warmup))
        return done

    geo = run("geo", "geo", setting.steps, trace=folder / "trace", save=folder / "model")
    plan = geo.recordings[0]["geo"]["plan"]
    steps = len(geo.recordings[0]["losses"])
    runs = {"geo": [geo]}
    for method in first[1:]:
        runs[method] = [run(method, method, steps, period=plan["period"] if method == "local_sgd" else None)]
    notes = sorted({note for one in runs.values() for note in one[0].notes})
    if not again:
        return Course(runs=runs, plan=plan, notes=notes)
    pair_s = sum(runs[method][0].duration_s + 5 for method in again.values())
    if time.monotonic() - began + pair_s + _ENDING_S > setting.budget_s:
        for label in again:
            bars.drop(label)
        notes.append("the second runs of no communication and geo_accel were left out for lack of time")
        return Course(runs=runs, plan=plan, notes=notes)
    pair = {
        "none": run("none", "none-again", steps),
        "geo": run("geo", "geo-again", steps, geo_config=as_config(plan)),
    }
    if pair["geo"].recordings[0]["geo"]["plan"]["starts"] == plan["starts"]:
        for method, one in pair.items():
            runs[method].append(one)
    else:
        notes.append("the second runs of no communication and geo_accel do not count: the plan was not the same")
    return Course(runs=runs, plan=plan, notes=notes)


def as_config(plan: dict) -> dict:
    """The settings that lead to this plan again: the repetition times the same plan, not another choice."""
    return {
        "sync": {key: plan[key] for key in ("mode", "period", "schedule", "delay")},
        "compression": {"codec": plan["codec"]},
    }


def _told(run: Run, warmup: int) -> str:
    """One line about a finished run."""
    steps = []
    for recording in run.recordings:
        boundaries = recording["boundaries"]
        steps.append(median(b - a for a, b in zip(boundaries[warmup:-1], boundaries[warmup + 1 :], strict=True)))
    count = len(run.recordings[0]["losses"])
    line = f"{METHODS[run.method]}: {count} steps in {run.duration_s:.0f} s, median step {max(steps):.3f} s"
    return line + (" (again)" if run.label != run.method else "")
