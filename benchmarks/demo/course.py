# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The course of the demo: which runs, in which order, and what each is told.

geo_accel goes first, because LocalSGD gets the period that geo_accel chose. Then, as often as time allows, no
communication and geo_accel are run again, shortly and in alternating order, because the speed of a machine drifts and
their ratio is what the demo is about.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.demo.progress import Bars
from benchmarks.demo.runs import Run, run_method
from benchmarks.demo.setting import METHODS, Setting

# The lab measures its links before each run, in seconds.
_PROBE_S = 4.0
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
    # B A A B B A: whatever drifts evenly meets both alike.
    pairs = [("none", "geo") if number % 2 else ("geo", "none") for number in range(1, setting.pairs + 1)]
    labels = {(method, number): f"{method}-{number + 2}" for number, pair in enumerate(pairs) for method in pair}
    for method in first:
        bars.plan(method, method, METHODS[method], setting.steps)
    for (method, number), label in labels.items():
        bars.plan(label, method, f"{METHODS[method]}, run {number + 2}", setting.pair_steps)

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

    pair_steps = max(setting.pair_steps, setting.warmup + 2 * plan["period"])
    pair_s = sum(runs[method][0].duration_s + _PROBE_S for method in ("none", "geo"))
    for number, pair in enumerate(pairs):
        if time.monotonic() - began + pair_s + _ENDING_S > setting.budget_s:
            for left in range(number, len(pairs)):
                for method in pair:
                    bars.drop(labels[method, left])
            notes.append(f"{len(pairs) - number} of {len(pairs)} repetitions were left out for lack of time")
            break
        begun = time.monotonic()
        again = {
            method: run(
                method, labels[method, number], pair_steps, geo_config=as_config(plan) if method == "geo" else None
            )
            for method in pair
        }
        pair_s = time.monotonic() - begun
        if again["geo"].recordings[0]["geo"]["plan"]["rounds"] != plan["rounds"]:
            notes.append("a repetition does not count: its plan was not the first one")
            continue
        for method, one in again.items():
            runs[method].append(one)
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
    return line
