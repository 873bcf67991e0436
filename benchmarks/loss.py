# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What each method costs in loss: `python -m benchmarks.loss`.

Trains a GPT-2 of 0.8 M parameters on bytes with two real processes: every method at every learning rate, then
with other seeds at its best. Writes runs/loss/results.json, table.md and loss-by-period.png. A finished run is kept
and not made again, so the command may be stopped at any time and goes on where it was. `--penalty FILE` writes the
planner's penalty table from the results that there are. Exits with 1 where a run failed or nothing was run, 2 for
wrong arguments, 130 after Ctrl-C.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import stdev
from typing import NamedTuple

from benchmarks.kit.figures import mean
from benchmarks.kit.job import LARGE, SMALL, Job
from benchmarks.kit.report import COLOURS, Table, draw_lines, provenance
from benchmarks.kit.store import Store, write_json
from benchmarks.kit.study import all_rates, arguments_of, best_rate, run_study, search
from benchmarks.penalty import penalty_table
from geo_accel.profile.device import choose_device

RATES, LARGE_RATES = (1e-3, 2e-3, 4e-3), (5e-4, 1e-3, 2e-3)
"""Learning rates that every method is tried at; wider where one does best at an end."""
SEEDS = 3
"""The first seed finds the learning rate, the others repeat it."""
STEPS, LARGE_STEPS = 240, 200
COLUMNS = {
    "case": "{name}",
    "rate": "{rate:g}",
    "loss": "{loss:.4f}",
    "± loss": "{loss_spread:.4f}",
    "gap": "{gap:+.2%}",
    "± gap": "{gap_spread:.2%}",
    "seeds": "{seeds}",
    "kB/step": "{kb_per_step:.0f}",
    "remark": "{remark}",
}
"""Rate: the best learning rate; gap: the loss above DDP's; ±: standard deviation over seeds; kB: sent by a site."""
_MEAN = (1.0, 0.0)


class Kind(NamedTuple):
    """What is compared; DDP and LocalSGD have no delay."""

    period: int
    codec: str = "fp32"
    delay: int = 0
    outer: tuple[float, float] = _MEAN
    """Learning rate and momentum of the outer step."""
    ratio: float | None = None
    """Of a sparse codec."""


class Case(NamedTuple):
    """A method with its settings."""

    name: str
    kind: Kind
    job: Job
    """At any rate, with any seed."""

    def at(self, rate: float, seed: int) -> Job:
        return replace(self.job, rate=rate, seed=seed)


class Part(NamedTuple):
    """A job for which methods are compared, with DDP above all."""

    title: str
    cases: list[Case]
    rates: tuple[float, ...] = RATES

    def jobs(self, results: Store) -> list[Job]:
        return search([case.at for case in self.cases], self.rates, SEEDS, results.loss)


def exact(job: Job, period: int = 1) -> Case:
    """DDP, the reference, which averages gradients in every step; with a period accelerate's LocalSGD, which averages
    all weights in fp32 so often. Nothing overlaps."""
    if period == 1:
        return Case("DDP", Kind(1), job)
    return Case(f"LocalSGD H={period}", Kind(period), replace(job, method="local_sgd", period=period))


def geo(job: Job, kind: Kind) -> Case:
    """geo_accel in mode "stream" with everything fixed."""
    name, step, ratio = f"geo H={kind.period} {kind.codec}", "mean", {}
    if kind.ratio is not None:
        name, ratio = f"{name} {100 * kind.ratio:g} %", {"ratio": kind.ratio}
    if kind.outer != _MEAN:
        step = {"type": "nesterov", "lr": kind.outer[0], "momentum": kind.outer[1]}
        name += ", outer ({:g}, {:g})".format(*kind.outer)
    sync = {"mode": "stream", "period": kind.period, "schedule": "stream", "delay": kind.delay, "outer": step}
    config = {"sync": sync, "compression": {"codec": kind.codec, **ratio}}
    name += f", delay {kind.delay}" * (kind.delay != 1)
    return Case(name, kind, replace(job, method="geo", config=config))


def periods(job: Job, *some: int, outer: tuple[float, float] = _MEAN) -> list[Case]:
    """geo_accel in int8, with a delay of one step."""
    return [geo(job, Kind(period, "int8", 1, outer)) for period in some]


_OUTER = {
    2: ((0.9, 0.3),),
    4: ((0.9, 0.3), (1.0, 0.3)),
    8: ((0.9, 0.5), (0.8, 0.3)),
    16: ((0.8, 0.6), (0.9, 0.3), (1.0, 0.5)),
    32: ((0.8, 0.6), (0.7, 0.8)),
}


def parts(place: str = "loopback") -> dict[str, Part]:
    """All cases by part, most important first. Each part has its DDP; a case in two parts is trained once."""
    tuned = Job(setting=SMALL, method="ddp", rate=RATES[0], steps=STEPS, place=place, pretrained=True)
    fresh, large = replace(tuned, pretrained=False), replace(tuned, setting=LARGE, steps=LARGE_STEPS)
    codecs = [Kind(8, codec, 1) for codec in ("int8", "bf16", "int4", "int2")]
    codecs += [Kind(8, codec, 1, ratio=ratio) for codec, ratio in (("topk", 0.05), ("topk", 0.01), ("randk", 0.05))]
    codecs += [Kind(8, "int8", delay) for delay in (2, 4, 8)]
    first = {period: pairs[:1] for period, pairs in _OUTER.items()}
    # Whether outer steps are better where the small model's are.
    larger = [case for pair in (_MEAN, (0.8, 0.6), (0.9, 0.3)) for case in periods(large, 12, outer=pair)]
    return {
        "finetune": Part("fine-tuning, 2 sites, one shared text", _by_period(tuned, _OUTER)),
        "scratch": Part("from random weights, 2 sites, one shared text", _by_period(fresh, first)),
        "codecs": Part("codecs and delays, fine-tuning", [exact(tuned), *(geo(tuned, kind) for kind in codecs)]),
        "large": Part("8.5 M parameters, 2 sites", [exact(large), *larger, *periods(large, 4)], LARGE_RATES),
    }


def _by_period(job: Job, outer: Mapping[int, Sequence[tuple[float, float]]]) -> list[Case]:
    steps = [case for period, pairs in outer.items() for pair in pairs for case in periods(job, period, outer=pair)]
    rest = [exact(job, 8), geo(job, Kind(8, "fp32", 1)), *periods(job, 1, 32)]
    return [exact(job), *periods(job, 2, 4, 8, 16), *steps, *rest]


def rows_of(part: Part, results: Store) -> list[dict]:
    """A row for every case that has a result: at its best learning rate, beside DDP at DDP's.

    Gaps are taken seed by seed, for equal seeds saw equal examples.
    """
    rows, reference = [], {}
    for case in part.cases:
        if not any(results.find(case.at(rate, 0)) for rate in all_rates(part.rates)):
            continue
        rate = best_rate(case.at, part.rates, results.loss)
        at_best = {} if rate is None else {seed: results.find(case.at(rate, seed)) for seed in range(SEEDS)}
        made = {seed: one for seed, one in at_best.items() if one and one["recordings"][0]["loss"] is not None}
        losses = {seed: one["recordings"][0]["loss"] for seed, one in made.items()}
        gaps = {seed: loss / reference[seed] - 1 for seed, loss in losses.items() if seed in reference}
        reference = losses if case.job.method == "ddp" else reference
        row = {"name": case.name, "kind": case.kind, "rate": rate, "losses": losses, "gaps": gaps}
        row |= _spread("loss", losses.values()) | _spread("gap", gaps.values()) | {"seeds": len(losses)}
        row["kb_per_step"] = kilobytes(made[0]["recordings"][0], case.job) if 0 in made else None
        rows.append(row | {"remark": "diverged at every rate" if rate is None else None})
    return rows


def kilobytes(seen: Mapping, job: Job) -> float:
    """Sent by a site per step: geo_accel's own count of its payload, for the others what a ring all-reduce sends."""
    if job.method == "geo":
        return seen["geo"]["wan_bytes"] / len(seen["losses"]) / 1e3
    return 2 * (job.sites - 1) / job.sites * 4 * seen["parameters"] / job.period / 1e3


def _spread(name: str, values: Iterable[float]) -> dict:
    values = list(values)
    return {name: mean(values), f"{name}_spread": stdev(values) if len(values) > 1 else None}


def draw(folder: Path, found: Mapping[str, Sequence[Mapping]], _: Store) -> list[Path]:
    """Gaps over the period: fine-tuning, and from random weights."""
    styles = {
        "int8, plain average": {"color": COLOURS["geo"]},
        "fp32, plain average": {"color": "#cc79a7", "marker": "D"},
        "int8, best outer step": {"color": COLOURS["outer"], "marker": "s", "ls": "--"},
        "LocalSGD": {"color": COLOURS["local_sgd"], "marker": "^"},
    }
    panels = {}
    for part in ("finetune", "scratch"):
        lines, rows = [], [row for row in found.get(part, ()) if row["gap"] is not None]
        # Of several outer steps the best comes last, and stays.
        rows.sort(key=lambda row: row["gap"], reverse=True)
        for name, how in styles.items():
            best = sorted({row["kind"].period: row for row in rows if _series(row["kind"]) == name}.items())
            points = [(period, 100 * row["gap"]) for period, row in best]
            spread = [100 * (row["gap_spread"] or 0.0) for _, row in best]
            lines += [(name, points, {"yerr": spread if any(spread) else None, **how})] if best else []
        if lines:
            panels[parts()[part].title] = (0.0, lines)
    path, up = folder / "loss-by-period.png", "held-out loss above DDP's, %"
    return draw_lines(path, panels, "period H, steps (logarithmic)", up, log=2) if panels else []


def _series(kind: Kind) -> str:
    outer = "plain average" if kind.outer == _MEAN else "best outer step"
    return f"{kind.codec}, {outer}" if kind.delay else "LocalSGD"


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing and reports what there is; returns the exit code."""
    parser = arguments_of(__doc__)
    parser.add_argument("--only", nargs="+", choices=parts(), metavar="PART", help=f"of {', '.join(parts())}")
    parser.add_argument("--penalty", type=Path, metavar="FILE", help="write the penalty table to FILE; run nothing")
    options = parser.parse_args(arguments)
    known = parts("gpu" if choose_device("auto").type == "cuda" else "loopback")
    chosen = {name: part for name, part in known.items() if not options.only or name in options.only}

    def figures(results: Store) -> dict[str, list[dict]]:
        return {name: rows for name, part in chosen.items() if (rows := rows_of(part, results))}

    if options.penalty is not None:
        found = figures(Store(options.results / "jobs"))
        try:
            table = penalty_table(found, provenance() | {"setting": asdict(SMALL)})
        except ValueError as error:
            parser.error(str(error))
        write_json(options.penalty, table, indent=1)
        print(f"{options.penalty} written: {len(table['base'])} pairs of period and outer step")
        return 0
    return run_study(
        "loss",
        options,
        jobs=lambda results: [job for part in chosen.values() for job in part.jobs(results)],
        figures=figures,
        tables=lambda found: [Table(f"{name}: {known[name].title}", COLUMNS, rows) for name, rows in found.items()],
        draw=draw,
    )


if __name__ == "__main__":
    sys.exit(main())
