# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The promise, measured with clocks: `python -m benchmarks.clock`.

geo_accel with everything "auto" over an emulated WAN of 100 Mbit/s against DDP, each at its own best learning rate:
GPT-2 of 8.5 M parameters, pretrained, on two sites. Loss at equal steps, efficiency, seconds to DDP's held-out loss.
Efficiency and DDP's step time come from runs in which no communication, geo_accel and DDP take turns, DDP's loss from
loopback. Writes runs/clock/results.json, table.md and loss-clock.png. Exits as `benchmarks.loss` does.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles, stdev

from benchmarks.kit.figures import loss_curve, mean, reach, runs_of_geo, turn_figures, whole_s
from benchmarks.kit.job import LARGE, Job
from benchmarks.kit.report import COLOURS, Table, draw_lines, goal, goals_table
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, best_rate, run_study, search

RATES, STEPS, SEEDS, MBPS = (5e-4, 1e-3, 2e-3), 200, 3, 100.0
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
_WARMUP = 14
"""First steps of geo_accel that are not timed: it measures and plans in them."""

_JOB = Job(setting=LARGE, method="ddp", rate=RATES[0], steps=STEPS, pretrained=True, mbps=(MBPS,))
_STEPS = replace(_JOB, method="turns", steps=0, turns=20, others=("ddp",), others_every=5, shared=False)
TURNS = [replace(_STEPS, pretrained=False, seed=seed) for seed in range(3)]  # a fresh model's step takes as long


def ddp(rate: float, seed: int) -> Job:
    """DDP's loss."""
    return replace(_JOB, place="loopback", rate=rate, seed=seed)


def geo(rate: float, seed: int, factor: float = 1.0) -> Job:
    """geo_accel with `factor` times DDP's steps."""
    return replace(_JOB, method="geo", rate=rate, seed=seed, steps=round(factor * STEPS), warmup=_WARMUP, config={})


def jobs(results: Store) -> list[Job]:
    """The jobs that are known so far, in order: results decide about further ones."""
    known = [TURNS[0], *search([geo, ddp], RATES, SEEDS, results.loss)]
    if any(results.loss(job) is None for job in known[1:]):
        return known
    rate = best_rate(geo, RATES, results.loss)
    return [*known, TURNS[1], *(geo(rate, seed, factor) for seed in range(SEEDS) for factor in FACTORS[1:]), TURNS[2]]


def figures(results: Store) -> dict:
    """Every figure there is; None for what is not measured yet."""
    ddp_rate, geo_rate = (best_rate(make, RATES, results.loss) for make in (ddp, geo))
    losses = {seed: results.loss(ddp(ddp_rate, seed)) for seed in range(SEEDS)} if ddp_rate else {}
    target = {seed: loss for seed, loss in losses.items() if loss is not None}
    turns = [turn_figures(result["recordings"]) for job in TURNS if (result := results.find(job))]
    shares = [share for one in turns for share in one["geo"]["efficiency_by_turn"]]
    ddp_s = mean(one["ddp"]["step_s"] for one in turns)
    row = {"name": "DDP", "rate": ddp_rate, "steps": STEPS, "loss": mean(target.values()), "seeds": len(target)}
    rows = [row | {"step_s": ddp_s, "whole_s": ddp_s and STEPS * ddp_s}]
    curves: dict[int, list[tuple[float, float]]] = {}
    for factor in FACTORS if geo_rate else ():
        made = {seed: one["recordings"] for seed in range(SEEDS) if (one := results.find(geo(geo_rate, seed, factor)))}
        for seed, sites in made.items():
            curves.setdefault(seed, []).append((whole_s(sites), sites[0]["loss"]))
        row = {"name": 'geo_accel, "auto"', "rate": geo_rate, "steps": round(factor * STEPS)}
        rows.append(row | runs_of_geo(list(made.values()), _WARMUP))
    both = {seed: curve for seed, curve in curves.items() if seed in target}
    gaps = {seed: curve[0][1] / target[seed] - 1 for seed, curve in both.items()}
    to_target = {seed: reach(curve, target[seed]) for seed, curve in both.items()} if ddp_s else {}
    # One that never got there counts as 0, and so does their mean: that over the others would flatter.
    speedups = [ddp_s * STEPS / seconds if seconds else 0.0 for seconds in to_target.values()]
    return {
        "rows": rows,
        "rates": {"ddp": ddp_rate, "geo": geo_rate},
        "ddp_step_s": ddp_s,
        "gaps": gaps,
        "gap": mean(gaps.values()),
        "gap_spread": stdev(gaps.values()) if len(gaps) > 1 else None,
        "efficiencies": shares,
        "efficiency": median(shares) if shares else None,
        "efficiency_quartiles": quantiles(shares, n=4)[::2] if len(shares) > 1 else None,
        "to_target_s": to_target,
        "speedups": speedups,
        "speedup": mean(speedups) if all(speedups) else 0.0,
    }


def tables(found: Mapping) -> list[Table]:
    goals = [
        goal("loss above DDP's, as a share", 0.01, found["gap"], at_most=True),
        goal("efficiency", 0.95, found["efficiency"]),
        goal("times faster than DDP to DDP's loss (0: never there)", 8.0, found["speedup"]),
    ]
    rows = Table(f"fine-tuning, two sites at {MBPS:g} Mbit/s", COLUMNS, found["rows"])
    return [rows, goals_table("what was promised", goals)]


def draw(folder: Path, found: Mapping, results: Store) -> list[Path]:
    """Training loss over seconds, and the averaged model's held-out loss at the end: the first seed's runs."""
    rates, ddp_s = found["rates"], found["ddp_step_s"]
    if None in (*rates.values(), ddp_s):
        return []
    reference = results.find(ddp(rates["ddp"], 0))["recordings"]
    target = reference[0]["loss"]
    points = [(ddp_s * (step + 1), loss) for step, (_, loss) in enumerate(loss_curve(reference, 10))]
    curves = [("DDP", points, {"color": COLOURS["ddp"]}, target)]
    for factor, dashes in zip(FACTORS, ("-", (0, (4, 1)), (0, (1, 1))), strict=True):
        if result := results.find(job := geo(rates["geo"], 0, factor)):
            sites, how = result["recordings"], {"color": COLOURS["geo"], "ls": dashes}
            curves.append((f'geo_accel, "auto", {job.steps} steps', loss_curve(sites, 10), how, sites[0]["loss"]))
    lines = [(name, points, {"marker": "", **how}) for name, points, how, _ in curves]
    lines += [("_", [(points[-1][0], loss)], {"ms": 7, **how}) for _, points, how, loss in curves]
    panels = {"lines: training loss; dots: held-out loss of the averaged model; dotted: DDP's": (target, lines)}
    across = "seconds since the first step (logarithmic)"
    return draw_lines(folder / "loss-clock.png", panels, across, "loss, nats per token", log=10)


def main(arguments: list[str] | None = None) -> int:
    return run_study("clock", arguments_of(__doc__).parse_args(arguments), jobs, figures, tables, draw)


if __name__ == "__main__":
    sys.exit(main())
