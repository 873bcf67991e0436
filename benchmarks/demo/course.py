# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The course of the demo: which runs, in which order, and what is made of them.

geo_accel goes first, because LocalSGD gets the period that geo_accel chose. These runs say what each method learns.
What a step takes is measured afterwards in one run, in which all of them take turns.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.kit.environment import now
from benchmarks.kit.figures import mean_step_s, reach, turn_figures
from benchmarks.kit.job import DEMO, Job, Turns
from benchmarks.kit.report import Goal
from benchmarks.kit.runner import run_batch
from benchmarks.kit.store import Store
from benchmarks.kit.study import make_materials

METHODS = {"none": "no communication", "ddp": "DDP", "local_sgd": "LocalSGD", "geo": "geo_accel"}
"""Names for people, in the order of tables and figures."""
TURNS = "turns"
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


@dataclass(slots=True, kw_only=True)
class Course:
    """All runs: results by method, and the one in turns as `TURNS`."""

    runs: dict[str, dict]
    plan: dict
    """geo_accel's first, which the turns keep."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures should know, one line each."""
    began_s: dict[str, float] = field(default_factory=dict)
    """Seconds from the start of the demo to the start of each run."""

    def sites(self, method: str) -> list[dict]:
        return self.runs[method]["recordings"]

    @property
    def figures(self) -> dict[str, dict]:
        """By method what `turn_figures` says, and the averaged model's held-out loss at the end of its own run."""
        found = turn_figures(self.sites(TURNS))
        return {method: found[method] | {"eval_loss": self.sites(method)[0]["loss"]} for method in METHODS}


def compare(demo: Demo, folder: Path, console: Console, began: float) -> Course:
    """Runs every method; `began` is the demo's start (`time.monotonic`).

    Leaves geo_accel's trained model in `folder`/model and its traces in `folder`/trace. Raises as `run_batch` does.
    """
    store, course = Store(folder), Course(runs={}, plan={})
    make_materials([demo.job], store)
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn()
    # The workers need the machine: two updates a second cost next to nothing.
    with Progress(
        *columns, console=console, refresh_per_second=2, expand=True, disable=not console.is_terminal
    ) as bars:
        names = {method: METHODS[method] for method in ("geo", "none", "ddp", "local_sgd")} | {TURNS: "all in turns"}
        tasks = {method: bars.add_task(name, start=False, total=demo.job.steps) for method, name in names.items()}

        def run(job: Job, **where: Path) -> list[dict]:
            method, done = job.method, [0.0]
            bars.start_task(tasks[method])

            def on_step(steps: float) -> None:
                done[0] += steps
                bars.update(tasks[method], completed=round(done[0]), total=max(job.steps, round(done[0])))

            course.began_s[method] = time.monotonic() - began
            (result,) = run_batch([job], store, on_step, name=names[method], **where)
            course.runs[method] = result
            bars.stop_task(tasks[method])
            sites, took = result["recordings"], f"in {result['duration_s']:.0f} s"
            if method == TURNS:
                console.print(f"{names[method]}: {len(sites[0]['turns'])} turns {took}", highlight=False)
            else:
                each = f"{mean_step_s(sites, demo.job.warmup):.3f} s each"
                console.print(f"{names[method]}: {len(sites[0]['losses'])} steps {took}, {each}", highlight=False)
            return sites

        (geo, *_) = run(demo.job, trace=folder / "trace", save=folder / "model")
        plan, steps = geo["geo"]["plan"], len(geo["losses"])
        course.plan = plan
        other = replace(demo.job, steps=steps, windows=0)
        run(replace(other, method="none"))
        run(replace(other, method="ddp", checks=tuple(sorted({steps * tenths // 10 for tenths in range(5, 11)}))))
        run(replace(other, method="local_sgd", period=plan["period"]))
        seconds = {method: mean_step_s(course.sites(method), demo.job.warmup) for method in METHODS}
        left_s = demo.budget_s - _ENDING_S - (time.monotonic() - began)
        count = demo.turns_that_fit(seconds, plan["period"], left_s)
        file = folder / "plan.json"
        file.write_text(json.dumps(plan))
        turns = Turns(count=count, others=("local_sgd", "ddp"), others_every=demo.others_every, shared=False)
        config = {"sync": {"schedule": "manual", "plan": str(file)}}
        run(replace(other, method=TURNS, steps=0, turns=turns, config=config))
    course.notes = sorted({note for one in course.runs.values() for note in one["notes"]})
    if count < demo.turns:
        course.notes.append(f"{demo.turns - count} of {demo.turns} turns were left out for lack of time")
    return course


def targets(figures: Mapping[str, Mapping], checks: Sequence[tuple[int, float]]) -> list[Goal]:
    """What geo_accel promises for this demo, beside what was measured; `checks` are DDP's.

    All are shares of what no network at all gives, so that they mean the same on fast and on slow machines.
    """
    steps, learnt = checks[-1][0], reach(checks, figures["geo"]["eval_loss"])
    share, efficiency = (steps if learnt is None else learnt) / steps, figures["geo"]["efficiency"]
    both = "both: time to that loss, DDP's without a network per geo_accel's"
    return [
        Goal(name="efficiency: speed, as a share of no network's", wanted=0.95, measured=efficiency),
        Goal(name="learning: DDP's steps to geo_accel's loss, per step", wanted=0.85, measured=share),
        Goal(name=both, wanted=0.85, measured=efficiency * share),
    ]


def summarise(demo: Demo, sizes: Mapping[str, int], course: Course, place: Mapping, duration_s: float) -> dict:
    """Every figure, ready for JSON; `place` is what `machine` said when the demo began, `sizes` the material's.

    Seconds, bytes, nats per token; `*_mbps` in 10**6 bits per second.
    """
    figures, geo, job = course.figures, course.sites("geo")[0], demo.job
    checks = course.sites("ddp")[0]["checks"]
    names = {"step_s": "step_s", "efficiency": "efficiency", "eval_loss": "eval_loss", "wan_bytes_per_step": "sent"}
    names |= {"efficiency_by_turn": "efficiencies"}
    found = {name: {method: one[key] for method, one in figures.items()} for name, key in names.items()}
    for other in ("ddp", "local_sgd"):
        per = {method: share / found["efficiency"][other] for method, share in found["efficiency"].items()}
        found[f"speedup_over_{other}"] = per
    tokens = job.setting.tokens_per_step(job.sites)
    return {
        **found,
        "plan": course.plan,
        "targets": [asdict(one) | {"held": one.held} for one in targets(figures, checks)],
        "ddp_eval_loss_by_step": checks,
        "step_s_quartiles": {method: [one["low_s"], one["high_s"]] for method, one in figures.items()},
        "geo": {key: value for key, value in geo["geo"].items() if key != "plan"},
        "setting": asdict(demo) | {"steps": len(geo["losses"]), "tokens_per_step": tokens, **sizes},
        "runs": [
            {"method": method, "began_s": course.began_s[method]}
            | {key: result[key] for key in ("duration_s", "link_mbps")}
            for method, result in course.runs.items()
        ],
        "notes": course.notes,
        "machine": dict(place),
        "date": now(),
        "command": "python -m benchmarks.demo",
        "duration_s": duration_s,
    }
