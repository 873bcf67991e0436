# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The course of the demo: which runs, in which order, and what each is told.

geo_accel goes first, because LocalSGD gets the period that geo_accel chose. These runs say what each method learns and
sends. What a step takes is measured afterwards in one run, in which all of them take turns (`turns.py`).
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demo.progress import Bars
from benchmarks.demo.runs import NAMES, Run, run_method
from benchmarks.demo.setting import LEAST_TURNS, METHODS, TURNS, Setting

# The lab measures its links before each run, and a run starts and ends, in seconds.
_STARTING_S = 20.0
# Reading the results, drawing and generating at the end, in seconds.
_ENDING_S = 20.0


@dataclass(slots=True, kw_only=True)
class Course:
    """All runs."""

    runs: dict[str, Run]
    """By method."""
    turns: Run
    """The one in which all methods take turns."""
    plan: dict
    """geo_accel's first, which the turns keep."""
    notes: list[str]
    """What a reader of the figures should know, one line each."""


def compare(setting: Setting, folder: Path, bars: Bars, began: float) -> Course:
    """Runs every method over the material in `folder`; `began` is the demo's start (`time.monotonic`).

    Leaves geo_accel's trained model in `folder`/model and its traces in `folder`/trace. Raises as `run_method` does.
    """
    order = ["geo", "none", "ddp", "local_sgd"]
    for method in order:
        bars.plan(method, method, METHODS[method], setting.steps)
    bars.plan(TURNS, TURNS, "all in turns", setting.turns)

    def run(method: str, steps: int, **how: object) -> Run:
        on_step = bars.begin(method, steps)
        done = run_method(setting, method, folder, steps=steps, label=method, on_step=on_step, since=began, **how)
        bars.end(method, _told(done, setting.warmup))
        return done

    runs = {"geo": run("geo", setting.steps, trace=folder / "trace", save=folder / "model")}
    plan = runs["geo"].recordings[0]["geo"]["plan"]
    steps = len(runs["geo"].recordings[0]["losses"])
    for method in order[1:]:
        runs[method] = run(method, steps, period=plan["period"] if method == "local_sgd" else None)

    seconds = {method: step_s(one, setting.warmup) for method, one in runs.items()}
    left_s = setting.budget_s - _ENDING_S - (time.monotonic() - began)
    count = turns_that_fit(setting, seconds, plan["period"], left_s)
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    turns = run(TURNS, count, plan=file)
    notes = sorted({note for one in (*runs.values(), turns) for note in one.notes})
    if count < setting.turns:
        notes.append(f"{setting.turns - count} of {setting.turns} turns were left out for lack of time")
    return Course(runs=runs, turns=turns, plan=plan, notes=notes)


def turns_that_fit(setting: Setting, seconds: Mapping[str, float], period: int, left_s: float) -> int:
    """How many turns `left_s` seconds are enough for, by the seconds of each method's step; LEAST_TURNS at least."""
    pair_s = (period + 1) * (seconds["none"] + seconds["geo"])
    others_s = (period + 1) * seconds["local_sgd"] + 3 * seconds["ddp"]
    fitting = int((left_s - _STARTING_S) / (pair_s + others_s / setting.others_every))
    return max(min(setting.turns, LEAST_TURNS), min(setting.turns, fitting))


def step_s(run: Run, warmup: int) -> float:
    """The mean seconds of a step after the warm-up, on the slower site."""
    ends = [recording["boundaries"] for recording in run.recordings]
    return max((boundaries[-1] - boundaries[warmup]) / (len(boundaries) - 1 - warmup) for boundaries in ends)


def _told(run: Run, warmup: int) -> str:
    """One line about a finished run."""
    if run.method == TURNS:
        return f"{NAMES[run.method]}: {len(run.recordings[0]['turns'])} turns in {run.duration_s:.0f} s"
    count = len(run.recordings[0]["losses"])
    return f"{NAMES[run.method]}: {count} steps in {run.duration_s:.0f} s, {step_s(run, warmup):.3f} s each"
