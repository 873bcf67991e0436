# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to the promise's figures: step time, efficiency, loss gap, and time to DDP's loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, stdev

from benchmarks.demo.figures import period_edges
from benchmarks.loss.clock.jobs import (
    FACTORS,
    Job,
    best_rate,
    ddp,
    ddp_clock,
    geo,
    rates,
    trainings,
)
from benchmarks.loss.clock.running import Results

GAP_GOAL, EFFICIENCY_GOAL, SPEED_GOAL = 0.01, 0.95, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How long geo_accel took to DDP's final held-out loss."""

    seed: int
    seconds: float | None
    """From the first step to the averaged model, probing and flush included; None if it was not reached."""
    steps: float | None
    """Between two runs on either side of that loss, steps and seconds are interpolated."""
    ddp_seconds: float
    """DDP's steps times its step time."""

    @property
    def speedup(self) -> float | None:
        return self.ddp_seconds / self.seconds if self.seconds else None


def step_s(result: dict, job: Job) -> float:
    """Seconds per step of the slowest site: the median over whole periods of the period's mean."""
    period = result["recordings"][0]["geo"]["plan"]["period"] if job.method == "geo" else 1
    sites = []
    for recording in result["recordings"]:
        # Where a period is longer than what is timed, all of that counts.
        period = min(period, len(recording["boundaries"]) - 1 - job.warmup)
        edges = period_edges(len(recording["boundaries"]), job.warmup, period)
        at = [recording["boundaries"][edge] for edge in edges]
        sites.append(median((stop - start) / period for start, stop in pairwise(at)))
    return max(sites)


def efficiencies(result: dict) -> list[float]:
    """Of a run in turns, by pair: a step without communication over one with geo_accel, each on its slowest site."""
    by_site = [zip(recording["bare"], recording["geo"], strict=True) for recording in result["recordings"]]
    return [max(bare for bare, _ in pair) / max(geo for _, geo in pair) for pair in zip(*by_site, strict=True)]


def whole_s(result: dict) -> float:
    """Seconds from the first step to the averaged model."""
    recordings = result["recordings"]
    return max(one["ended"] for one in recordings) - min(one["boundaries"][0] for one in recordings)


def reach(losses: Sequence[float], seconds: Sequence[float], steps: Sequence[int], target: float):
    """Seconds and steps to `target`, from runs of more and more steps; (None, None) if none gets there.

    The first run that is as good counts whole where it is the shortest; else seconds and steps are interpolated
    between it and the one before.
    """
    for place, loss in enumerate(losses):
        if loss <= target:
            if place == 0:
                return seconds[0], float(steps[0])
            way = (losses[place - 1] - target) / (losses[place - 1] - loss)
            before, after = place - 1, place
            return (
                seconds[before] + way * (seconds[after] - seconds[before]),
                steps[before] + way * (steps[after] - steps[before]),
            )
    return None, None


def summarise(task: str, results: Results, seeds: int) -> dict:
    """Every figure there is, ready for JSON; None for what is not measured yet."""
    find, loss = results.find, results.loss
    own = {make: best_rate(make, task, loss) for make in (ddp, geo)}
    ran = [job for job in trainings(task, loss, seeds) if find(job)]
    timings = []
    for job in ran:
        if job.method != "geo":
            continue
        plan = find(job)["recordings"][0]["geo"]["plan"]
        timings.append(
            {
                "rate": job.rate,
                "seed": job.seed,
                "steps": job.steps,
                "step_s": step_s(find(job), job),
                "whole_s": whole_s(find(job)),
                "loss": loss(job),
                "plan": {key: plan[key] for key in ("period", "delay", "codec", "reason")},
                "date": find(job)["date"],
            }
        )
    shares = [share for job in ran if job.method == "turns" for share in efficiencies(find(job))]
    ddp_step_s = step_s(find(ddp_clock()), ddp_clock()) if find(ddp_clock()) else None
    gaps, reached = {}, []
    for seed in range(seeds):
        target = loss(ddp(task, own[ddp], seed)) if own[ddp] else None
        runs = [geo(task, own[geo], seed, factor) for factor in (1.0, *FACTORS)] if own[geo] else []
        made = [job for job in runs if find(job)]
        if target is None or not made or made[0] != runs[0]:
            continue
        gaps[seed] = loss(made[0]) / target - 1
        if ddp_step_s is not None:
            seconds, steps = reach(
                [loss(job) for job in made], [whole_s(find(job)) for job in made], [job.steps for job in made], target
            )
            reached.append(
                Reached(seed=seed, seconds=seconds, steps=steps, ddp_seconds=ddp_step_s * results.setting.steps)
            )
    speedups = [one.speedup for one in reached]
    return {
        "task": task,
        "learning_rates": {"ddp": own[ddp], "geo": own[geo]},
        "ddp_loss": _by_seed(lambda seed: ddp(task, own[ddp], seed), loss, seeds) if own[ddp] else {},
        "geo_loss": {
            f"{factor:g}": _by_seed(lambda seed, factor=factor: geo(task, own[geo], seed, factor), loss, seeds)
            for factor in (1.0, *FACTORS)
        }
        if own[geo]
        else {},
        "by_rate": {
            name: {
                f"{rate:g}": value for rate in rates(task, loss) if (value := loss(make(task, rate, 0))) is not None
            }
            for name, make in (("ddp", ddp), ("geo", geo))
        },
        "gap": fmean(gaps.values()) if gaps else None,
        "gap_spread": stdev(gaps.values()) if len(gaps) > 1 else None,
        "gaps": {str(seed): gap for seed, gap in gaps.items()},
        "efficiency": median(shares) if shares else None,
        "efficiencies": shares,
        "geo_step_s": median(one["step_s"] for one in timings) if timings else None,
        "ddp_step_s": ddp_step_s,
        "reached": [
            {"seed": one.seed, "seconds": one.seconds, "steps": one.steps, "ddp_seconds": one.ddp_seconds}
            | {"speedup": one.speedup}
            for one in reached
        ],
        # A mean over those that got there would flatter.
        "speedup": fmean(speedups) if speedups and None not in speedups else None,
        "runs": timings,
    }


def _by_seed(make, loss, seeds: int) -> dict[str, float]:
    return {str(seed): value for seed in range(seeds) if (value := loss(make(seed))) is not None}


def targets(summary: dict) -> list[tuple[str, str, str, bool | None]]:
    """What was promised: name, goal, measured, and whether it held; None for what is not measured."""
    gap, efficiency, speedup = summary["gap"], summary["efficiency"], summary["speedup"]
    rows = [
        ("loss above DDP's, at most", "{:.2%}", GAP_GOAL, gap, gap is not None and gap <= GAP_GOAL),
        ("efficiency, at least", "{:.3f}", EFFICIENCY_GOAL, efficiency, (efficiency or 0.0) >= EFFICIENCY_GOAL),
        ("faster than DDP to DDP's loss, at least", "{:.1f} ×", SPEED_GOAL, speedup, (speedup or 0.0) >= SPEED_GOAL),
    ]
    result = []
    for name, form, goal, measured, held in rows:
        if measured is not None:
            result.append((name, form.format(goal), form.format(measured), held))
        elif goal == SPEED_GOAL and summary["reached"]:
            result.append((name, form.format(goal), "not reached", False))
        else:
            result.append((name, form.format(goal), "not measured", None))
    return result
