# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The promise, measured with clocks: `python -m benchmarks.clock [--task finetune | scratch]`.

geo_accel with everything "auto" over an emulated WAN of 100 Mbit/s against DDP, each at its own best learning rate:
GPT-2 of 8.5 M parameters on two sites. Loss at equal steps, efficiency (steps with and without communication taking
turns), seconds to DDP's held-out loss. DDP's loss comes from loopback, its step time from 12 steps in the lab. Writes
runs/clock/results.json, table.md and clock.png. Exits as `benchmarks.loss` does.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median, quantiles, stdev

from benchmarks.kit.figures import by_method, loss_curve, mean, reach, step_s, whole_s
from benchmarks.kit.job import LARGE, Job, Turns
from benchmarks.kit.rates import all_rates, best_rate, search
from benchmarks.kit.report import Goal, Table, goals_table
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, run_study

RATES, STEPS, MBPS = (5e-4, 1e-3, 2e-3), 200, 100.0
SEEDS = {"finetune": 3, "scratch": 1}
FACTORS = (1.0, 1.1, 1.2)
"""geo_accel gets more steps too, as times DDP's: it needs more to reach DDP's loss, and has the time for them."""
COLUMNS = {
    "method": "{name}",
    "rate": "{rate:g}",
    "steps": "{steps}",
    "loss": "{loss:.4f}",
    "seeds": "{seeds}",
    "step s": "{step_s:.3f}",
    "whole s": "{whole_s:.0f}",
    "H": "{periods}",
}
_DDP_WARMUP, _WARMUP = 3, 14
"""First steps that are not timed; geo_accel measures and plans in them."""


class Jobs:
    """The trainings of one task."""

    def __init__(self, task: str) -> None:
        self.task, self.seeds = task, SEEDS[task]
        job = Job(setting=LARGE, method="ddp", rate=RATES[0], steps=STEPS, pretrained=task == "finetune", mbps=(MBPS,))
        self._job = job
        # What a step takes, no task changes.
        plain = replace(job, pretrained=False)
        self.clock = replace(plain, steps=12, warmup=_DDP_WARMUP)
        self.turns = [
            replace(plain, method="turns", steps=0, turns=Turns(count=20, shared=False), number=n) for n in range(3)
        ]

    def ddp(self, rate: float, seed: int) -> Job:
        """DDP's loss."""
        return replace(self._job, place="loopback", rate=rate, seed=seed)

    def geo(self, rate: float, seed: int, factor: float = 1.0) -> Job:
        """geo_accel with `factor` times DDP's steps."""
        return replace(
            self._job, method="geo", rate=rate, seed=seed, steps=round(factor * STEPS), warmup=_WARMUP, config={}
        )

    def known(self, results: Store) -> list[Job]:
        """The jobs that are known so far, in order: results decide about further ones."""
        found = search([self.geo, self.ddp], RATES, self.seeds, results.loss)
        jobs = [self.clock, self.turns[0], *found]
        if any(results.loss(job) is None for job in found):
            return jobs
        rate = best_rate(self.geo, RATES, results.loss)
        more = [self.geo(rate, seed, factor) for seed in range(self.seeds) for factor in FACTORS[1:]]
        return [*jobs, self.turns[1], *more, self.turns[2]]


def figures(jobs: Jobs, results: Store) -> dict:
    """Every figure there is; None for what is not measured yet."""
    ddp_rate, geo_rate = (best_rate(make, RATES, results.loss) for make in (jobs.ddp, jobs.geo))
    seeds = range(jobs.seeds)
    target = {
        seed: loss for seed in seeds if ddp_rate and (loss := results.loss(jobs.ddp(ddp_rate, seed))) is not None
    }
    clock = results.find(jobs.clock)
    ddp_s = step_s(clock["recordings"], _DDP_WARMUP) if clock else None
    row = {"name": "DDP", "rate": ddp_rate, "steps": STEPS, "loss": mean(target.values()), "seeds": len(target)}
    rows = [row | {"step_s": ddp_s, "whole_s": ddp_s and STEPS * ddp_s}]
    curves: dict[int, list[tuple[float, float]]] = {}
    for factor in FACTORS if geo_rate else ():
        made = {seed: one for seed in seeds if (one := results.find(jobs.geo(geo_rate, seed, factor)))}
        sites = {seed: one["recordings"] for seed, one in made.items()}
        ends = {seed: (whole_s(some), some[0]["loss"]) for seed, some in sites.items()}
        for seed, end in ends.items():
            curves.setdefault(seed, []).append(end)
        periods = [some[0]["geo"]["plan"]["period"] for some in sites.values()]
        row = {"name": 'geo_accel, "auto"', "rate": geo_rate, "steps": round(factor * STEPS), "seeds": len(sites)}
        row |= {
            "loss": mean(loss for _, loss in ends.values()),
            "whole_s": mean(second for second, _ in ends.values()),
        }
        row["step_s"] = mean(step_s(some, _WARMUP) for some in sites.values())
        rows.append(row | {"periods": f"{min(periods)} to {max(periods)}" if periods else None})
    both = {seed: curve for seed, curve in curves.items() if seed in target}
    gaps = {seed: curve[0][1] / target[seed] - 1 for seed, curve in both.items()}
    to_target = {seed: reach(curve, target[seed]) for seed, curve in both.items()} if ddp_s else {}
    # A mean over those that got there would flatter.
    reached = [ddp_s * STEPS / seconds if seconds else 0.0 for seconds in to_target.values()]
    found = [result["recordings"] for job in jobs.turns if (result := results.find(job))]
    shares = [turn["none"] / turn["geo"] for sites in found for turn in by_method(sites)]
    makes = {"ddp": jobs.ddp, "geo": jobs.geo}
    return {
        "task": jobs.task,
        "setting": asdict(LARGE),
        "rows": rows,
        "rates": {"ddp": ddp_rate, "geo": geo_rate},
        "by_rate": {
            name: {rate: results.loss(make(rate, 0)) for rate in all_rates(RATES)} for name, make in makes.items()
        },
        "ddp_step_s": ddp_s,
        "gaps": gaps,
        "gap": mean(gaps.values()),
        "gap_spread": stdev(gaps.values()) if len(gaps) > 1 else None,
        "efficiencies": shares,
        "efficiency": median(shares) if shares else None,
        "efficiency_quartiles": quantiles(shares, n=4)[::2] if len(shares) > 1 else None,
        "to_target_s": to_target,
        "speedups": reached,
        "speedup": (fmean(reached) if all(reached) else 0.0) if reached else None,
    }


def tables(found: Mapping) -> list[Table]:
    goals = [
        Goal(name="loss above DDP's, as a share", wanted=0.01, measured=found["gap"], at_most=True),
        Goal(name="efficiency", wanted=0.95, measured=found["efficiency"]),
        Goal(name="times faster than DDP to DDP's loss (0: never there)", wanted=8.0, measured=found["speedup"]),
    ]
    title = f"{found['task']}, two sites at {MBPS:g} Mbit/s"
    return [Table(title, COLUMNS, found["rows"]), goals_table("what was promised", goals)]


def draw(jobs: Jobs, folder: Path, found: Mapping, results: Store) -> list[Path]:
    """Training loss over seconds, and the averaged model's held-out loss at the end: the first seed's runs."""
    from benchmarks.pictures import COLOURS, draw_over_seconds

    if None in (*found["rates"].values(), found["ddp_step_s"]):
        return []
    reference = results.find(jobs.ddp(found["rates"]["ddp"], 0))["recordings"]
    target = reference[0]["loss"]
    points = [(found["ddp_step_s"] * (step + 1), loss) for step, (_, loss) in enumerate(loss_curve(reference, 10))]
    lines = [("DDP", COLOURS["ddp"], "-", points, target)]
    for factor, dashes in zip(FACTORS, ("-", (0, (4, 1)), (0, (1, 1))), strict=True):
        if result := results.find(job := jobs.geo(found["rates"]["geo"], 0, factor)):
            sites, name = result["recordings"], f'geo_accel, "auto", {job.steps} steps'
            lines.append((name, COLOURS["geo"], dashes, loss_curve(sites, 10), sites[0]["loss"]))
    title = f"{jobs.task}: lines: training loss; dots: held-out loss of the averaged model; dotted: DDP's"
    return draw_over_seconds(folder / "clock.png", {title: lines}, {title: target}, log=True)


def main(arguments: list[str] | None = None) -> int:
    parser = arguments_of(__doc__)
    parser.add_argument("--task", choices=SEEDS, default="finetune", help="default: finetune")
    options = parser.parse_args(arguments)
    jobs = Jobs(options.task)
    return run_study(
        "clock" if options.task == "finetune" else f"clock-{options.task}",
        options,
        jobs=jobs.known,
        figures=partial(figures, jobs),
        tables=tables,
        draw=partial(draw, jobs),
    )


if __name__ == "__main__":
    sys.exit(main())
