# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What each method costs in loss: `python -m benchmarks.loss`.

Trains a GPT-2 of 0.8 M parameters on bytes with two and four real processes: every method at every learning rate, then
with other seeds at its best. Writes runs/loss/results.json, table.md and gap-by-period.png. A finished run is kept and
not made again, so the command may be stopped at any time and goes on where it was. `--penalty FILE` writes the
planner's penalty table from the results that there are. Exits with 1 where nothing could be run, 2 for wrong
arguments, 130 after Ctrl-C.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import stdev

from benchmarks.kit.figures import mean
from benchmarks.kit.job import LARGE, SMALL, Job
from benchmarks.kit.rates import all_rates, best_rate, search
from benchmarks.kit.report import Table
from benchmarks.kit.store import Store
from benchmarks.kit.study import arguments_of, make_materials, run_study
from benchmarks.kit.texts import KINDS
from benchmarks.penalty import write_penalties
from geo_accel.profile.device import DEVICES, choose_device

RATES, LARGE_RATES = (1e-3, 2e-3, 4e-3), (5e-4, 1e-3, 2e-3)
"""Learning rates that every method is tried at; wider where one does best at an end."""
SEEDS = 3
"""The first seed finds the learning rate, the others repeat it."""
STEPS, LARGE_STEPS, QUICK_STEPS = 240, 200, 32
QUICK = replace(SMALL, warmup=10, pretraining_steps=150, evaluation_blocks=256)
_QUICK_MINUTES = 4.8
COLUMNS = {
    "case": "{name}",
    "rate": "{rate:g}",
    "loss": "{loss:.4f}",
    "± loss": "{loss_spread:.4f}",
    "gap": "{gap:+.2%}",
    "± gap": "{gap_spread:.2%}",
    "seeds": "{seeds}",
    "kB/step": "{kb_per_step:.0f}",
    "states of the code": "{states}",
    "remark": "{remark}",
}
"""Rate: the best learning rate; gap: the loss above DDP's; ±: standard deviation over seeds; kB: sent by a site."""
_MEAN = (1.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A method with its settings."""

    name: str
    kind: tuple[int, str, int, tuple[float, float], float | None]
    """Period, codec, delay, learning rate and momentum of the outer step, and the ratio of a sparse codec."""
    job: Job
    """At any rate, with any seed."""

    def at(self, rate: float, seed: int) -> Job:
        return replace(self.job, rate=rate, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A job for which methods are compared, with DDP above all."""

    title: str
    cases: list[Case]
    rates: tuple[float, ...] = RATES
    seeds: int = SEEDS

    def jobs(self, results: Store) -> list[Job]:
        return search([case.at for case in self.cases], self.rates, self.seeds, results.loss)


def ddp(job: Job) -> Case:
    """The reference: gradients averaged in every step."""
    return Case(name="DDP", kind=(1, "fp32", 0, _MEAN, None), job=job)


def local_sgd(job: Job, period: int) -> Case:
    """accelerate's LocalSGD: all weights averaged every `period` steps, nothing else overlaps."""
    kind, averaged = (period, "fp32", 0, _MEAN, None), replace(job, method="local_sgd", period=period)
    return Case(name=f"LocalSGD H={period}", kind=kind, job=averaged)


def geo(
    job: Job,
    period: int,
    codec: str = "int8",
    *,
    outer: tuple[float, float] = _MEAN,
    delay: int = 1,
    **compression: object,
) -> Case:
    """geo_accel in mode "stream" with everything fixed; `compression` are further settings of a sparse codec."""
    words = [f"geo H={period} {codec}"]
    if "ratio" in compression:
        words[0] += f" {100 * compression['ratio']:g} %"
        where = {"weights": "in weights", "buffer": "in buffer", "none": "lost"}[compression["residual"]]
        words += [f"rest {where}"] + ["overlap weighted"] * bool(compression["overlap_weighting"])
    words += [f"outer ({outer[0]:g}, {outer[1]:g})"] * (outer != _MEAN) + [f"delay {delay}"] * (delay != 1)
    step = "mean" if outer == _MEAN else {"type": "nesterov", "lr": outer[0], "momentum": outer[1]}
    config = {
        "sync": {"mode": "stream", "period": period, "schedule": "stream", "delay": delay, "outer": step},
        "compression": {"codec": codec, **compression},
    }
    kind = (period, codec, delay, outer, compression.get("ratio"))
    return Case(name=", ".join(words), kind=kind, job=replace(job, method="geo", config=config))


def sparse(job: Job, codec: str, ratio: float, **how: object) -> Case:
    """A sparse codec at H=8, with what is not sent left in the weights unless told otherwise."""
    return geo(job, 8, codec, ratio=ratio, **{"residual": "weights", "overlap_weighting": False, **how})


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
    fresh, two = replace(tuned, pretrained=False), replace(tuned, kinds=("documentation", "packages"), own=True)
    four = replace(tuned, sites=4, kinds=KINDS)
    large = replace(tuned, setting=LARGE, steps=LARGE_STEPS)
    codecs = [geo(tuned, 8, codec) for codec in ("int8", "bf16", "int4", "int2")]
    codecs += [sparse(tuned, "topk", 0.05), sparse(tuned, "topk", 0.01), sparse(tuned, "randk", 0.05)]
    codecs += [geo(tuned, 8, delay=delay) for delay in (2, 4, 8)]
    first = {period: pairs[:1] for period, pairs in _OUTER.items()}
    larger = [geo(large, 12), *(geo(large, 12, outer=pair) for pair in ((0.8, 0.6), (0.9, 0.3))), geo(large, 4)]
    apart = [*(geo(two, period) for period in (2, 8)), geo(two, 8, outer=(0.9, 0.5))]
    return {
        "finetune": Part(title="fine-tuning, 2 sites, one shared text", cases=_periods(tuned, _OUTER)),
        "scratch": Part(title="from random weights, 2 sites, one shared text", cases=_periods(fresh, first)),
        "codecs": Part(title="codecs and delays, fine-tuning, 2 sites", cases=[ddp(tuned), *codecs]),
        "four-own": Part(title="4 sites, each its own kind of text", cases=_four(replace(four, own=True))),
        "four-iid": Part(title="4 sites, every site draws from all text", cases=_four(four)),
        "two-own": Part(title="2 sites, each its own kind of text", cases=[ddp(two), *apart]),
        # Whether outer steps are better where the small model's are.
        "large": Part(title="8.5 M parameters, 2 sites", cases=[ddp(large), *larger], rates=LARGE_RATES),
    }


def quick_parts(place: str = "loopback") -> dict[str, Part]:
    """For a first impression in five minutes: one seed, short runs."""
    tuned = Job(setting=QUICK, method="ddp", rate=RATES[0], steps=QUICK_STEPS, place=place, pretrained=True)
    own = replace(tuned, sites=4, kinds=KINDS, own=True)
    two = [geo(tuned, 2), geo(tuned, 8), local_sgd(tuned, 8), geo(tuned, 8, outer=(0.9, 0.5))]
    return {
        "finetune": Part(title="quick, 2 sites", cases=[ddp(tuned), *two], seeds=1),
        "four-own": Part(
            title="quick, 4 sites, each its own kind of text",
            cases=[ddp(own), geo(own, 8), sparse(own, "topk", 0.01)],
            seeds=1,
        ),
    }


def _periods(job: Job, outer: Mapping[int, Sequence[tuple[float, float]]]) -> list[Case]:
    main = [geo(job, period) for period in (2, 4, 8, 16)]
    steps = [geo(job, period, outer=pair) for period, pairs in outer.items() for pair in pairs]
    return [ddp(job), *main, *steps, local_sgd(job, 8), geo(job, 8, "fp32"), geo(job, 1), geo(job, 32)]


def _four(job: Job) -> list[Case]:
    one_percent = partial(sparse, job, "topk", 0.01)
    rests = [
        one_percent(residual=rest, overlap_weighting=on) for rest in ("weights", "buffer") for on in (False, True)
    ]
    # Overlap weighting acts much like a larger outer step: without this control it proves nothing.
    control = [one_percent(residual="buffer", outer=(lr, 0.0)) for lr in (2.0, 4.0)]
    lost = [one_percent(residual="none"), sparse(job, "randk", 0.01, residual="buffer")]
    return [ddp(job), geo(job, 8), *rests, *control, *lost]


def rows_of(part: Part, results: Store) -> list[dict]:
    """A row for every case that has a result or was refused: at its best learning rate, beside DDP at DDP's.

    Gaps are taken seed by seed, for equal seeds saw equal examples.
    """
    rows, reference = [], {}
    for case in part.cases:
        tried = [case.at(rate, 0) for rate in all_rates(part.rates)]
        refusal = next((results.refused[key] for job in tried if (key := results.key(job)) in results.refused), None)
        if not refusal and not any(results.find(job) for job in tried):
            continue
        rate = best_rate(case.at, part.rates, results.loss)
        at_best = {} if rate is None else {seed: results.find(case.at(rate, seed)) for seed in range(part.seeds)}
        made = {seed: one for seed, one in at_best.items() if one and one["recordings"][0]["loss"] is not None}
        losses = {seed: one["recordings"][0]["loss"] for seed, one in made.items()}
        reference = losses if case.job.method == "ddp" else reference
        gaps = {seed: loss / reference[seed] - 1 for seed, loss in losses.items() if seed in reference}
        above = gaps if case.job.method != "ddp" else {}
        row = {
            "name": case.name,
            "kind": case.kind,
            "rate": rate,
            "seeds": len(losses),
            "losses": losses,
            "gaps": gaps,
        }
        for name, values in (("loss", losses), ("gap", above)):
            row[name] = mean(values.values())
            row[f"{name}_spread"] = stdev(values.values()) if len(values) > 1 else None
        row["kb_per_step"] = bytes_per_step(made[0], case.job) / 1e3 if 0 in made else None
        row["code"] = sorted({one["code"] for one in made.values()})
        row["states"] = len(row["code"]) if len(row["code"]) > 1 else None
        row["devices"] = sorted({one["recordings"][0]["device"] for one in made.values()})
        row["remark"] = refusal or ("diverged at every rate" if rate is None else None)
        rows.append(row)
    return rows


def bytes_per_step(result: Mapping, job: Job) -> float:
    """Bytes that a site sent: geo_accel's own count of its payload, for the others what a ring all-reduce sends."""
    seen = result["recordings"][0]
    if job.method == "geo":
        return seen["geo"]["wan_bytes"] / len(seen["losses"])
    return 2 * (job.sites - 1) / job.sites * 4 * seen["parameters"] / job.period


def draw(folder: Path, found: Mapping[str, Sequence[Mapping]], _: Store) -> list[Path]:
    from benchmarks.pictures import draw_gaps  # matplotlib is not needed before

    return draw_gaps(
        folder / "gap-by-period.png", {name: found[name] for name in ("finetune", "scratch") if name in found}
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing and reports what there is; returns the exit code."""
    names = tuple(parts())
    parser = arguments_of(__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a first impression in five minutes: one seed, short runs"
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: an accelerator where there is one")
    parser.add_argument(
        "--penalty", type=Path, metavar="FILE", help="write the penalty table to FILE, and run nothing"
    )
    options = parser.parse_args(arguments)
    place = "gpu" if choose_device(options.device).type == "cuda" else "loopback"
    known = quick_parts(place) if options.quick else parts(place)
    chosen = {name: part for name, part in known.items() if not options.only or name in options.only}
    if not chosen:
        parser.error(f"--only {' '.join(options.only)}: --quick has only {', '.join(known)}.")

    def figures(results: Store) -> dict[str, list[dict]]:
        return {name: rows for name, part in chosen.items() if (rows := rows_of(part, results))}

    if options.penalty is not None:
        results = Store(options.results / "jobs")
        make_materials([part.cases[0].job for part in chosen.values()], results)
        return write_penalties(options.penalty, figures(results))
    if options.quick and options.minutes is None:
        options.minutes = _QUICK_MINUTES
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
