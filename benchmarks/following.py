# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A link that gets slower while training runs, and a run that follows it: `python -m benchmarks.following`.

Trains the demo's GPT-2 on two emulated sites with everything "auto"; at step 50 the links go from 100 to 30 Mbit/s. A
second run has 30 Mbit/s from the start, a third no communication. Writes runs/following/results.json and
following.png.
"""

import json
import shutil
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.demo.material import make_material
from benchmarks.demo.progress import Bars
from benchmarks.demo.runs import RunFailed, run_method
from benchmarks.demo.setting import FULL

RESULTS = Path("runs/following")
BEFORE_MBPS, AFTER_MBPS, CHANGE_AT = 100.0, 30.0, 50
STEPS, FRESH_STEPS = 170, 90
LAST = 48
"""Steps at the end of each run that are compared."""
GOAL = 0.9


def main() -> int:
    """Runs all three; returns the exit code: 1 where one failed."""
    console = Console()
    work = (RESULTS / "work").resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    make_material(FULL, work)
    slow = FULL.at(AFTER_MBPS)
    changing = FULL.at(BEFORE_MBPS)
    began = time.monotonic()
    runs = {}
    cases = {
        "followed": (changing, "geo", STEPS, [(f"step {CHANGE_AT}", AFTER_MBPS)]),
        "fresh": (slow, "geo", FRESH_STEPS, []),
        "none": (slow, "none", FRESH_STEPS, []),
    }
    try:
        with Bars(console) as bars:
            for name, (_, method, steps, _) in cases.items():
                bars.plan(name, method, name, steps)
            for name, (setting, method, steps, changes) in cases.items():
                on_step = bars.begin(name, steps)
                runs[name] = run_method(
                    setting,
                    method,
                    work,
                    steps=steps,
                    label=name,
                    on_step=on_step,
                    since=began,
                    rate_changes=changes,
                )
                bars.end(name, f"{name}: {runs[name].duration_s:.0f} s")
    except RunFailed as error:
        print(f"following: {error}", file=sys.stderr)
        return 1
    durations = {name: steps_of(run.recordings) for name, run in runs.items()}
    last = {name: median(steps[-LAST:]) for name, steps in durations.items()}
    mean = {name: sum(steps[-LAST:]) / LAST for name, steps in durations.items()}
    efficiency = {name: mean["none"] / mean[name] for name in ("followed", "fresh")}
    result = {
        "step_s": durations,
        "mean_s": mean,
        "median_s": last,
        "efficiency": efficiency,
        "recovered": efficiency["followed"] / efficiency["fresh"],
        "plans": {name: runs[name].recordings[0]["geo"]["plans"] for name in efficiency},
        "change_at": CHANGE_AT,
    }
    (RESULTS / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(RESULTS / "following.png", result)
    show(console, result)
    return 0


def steps_of(recordings: list[dict]) -> list[float]:
    """Seconds of every step, on the slowest site."""
    sites = [[b - a for a, b in pairwise(recording["boundaries"])] for recording in recordings]
    return [max(step) for step in zip(*sites, strict=True)]


def show(console: Console, result: dict) -> None:
    """Plans and figures."""
    table = Table(title="plans", title_justify="left")
    for heading in ("run", "from step", "H", "codec", "delay", "why"):
        table.add_column(heading)
    for name, plans in result["plans"].items():
        for plan in plans:
            table.add_row(name, *(str(plan[key]) for key in ("step", "period", "codec", "delay", "reason")))
    console.print(table)
    for name, efficiency in result["efficiency"].items():
        console.print(f"{name}: {result['mean_s'][name]:.3f} s per step, efficiency {efficiency:.3f}", highlight=False)
    console.print(
        f"recovered to {result['recovered']:.3f} of a fresh run's efficiency (wanted at least {GOAL})", highlight=False
    )


def draw(path: Path, result: dict) -> None:
    """Step time over steps, with the change and the plans."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    steps = result["step_s"]["followed"]
    axes.plot(range(1, len(steps) + 1), steps, color="#0072b2", linewidth=1.2, label="this run")
    axes.axhline(result["mean_s"]["fresh"], color="#009e73", linewidth=1.2, label="a fresh run at 30 Mbit/s")
    axes.axhline(result["mean_s"]["none"], color="0.5", linewidth=1.0, linestyle="--", label="no communication")
    axes.axvline(result["change_at"], color="#d55e00", linewidth=1.5)
    top = max(steps[12:]) * 1.12
    axes.set_ylim(0, top)
    axes.set_xlim(1, len(steps))
    axes.text(result["change_at"] + 1, top * 0.97, "100 to 30 Mbit/s", color="#d55e00", va="top")
    for number, plan in enumerate(result["plans"]["followed"]):
        axes.axvline(plan["step"], color="0.3", linewidth=0.8, linestyle=":")
        axes.text(plan["step"] + 1, top * (0.80 - 0.07 * (number % 3)), f"H = {plan['period']}", color="0.2", va="top")
    axes.set_xlabel("step")
    axes.set_ylabel("seconds per step")
    axes.set_title("A link that gets slower, and a run that follows it", loc="left", fontweight="bold")
    axes.legend(loc="upper right", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
