# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A study: a list of jobs, and what is made of their results. Runs what is missing and reports what there is.

Where losses are compared, every method has its own best learning rate: one grid for all, tried with the first seed,
wider where it must be.
"""

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.kit.job import Job
from benchmarks.kit.report import Table, report
from benchmarks.kit.runner import RunFailed, run_batch
from benchmarks.kit.store import Store
from geo_accel.lab import why_unavailable
from geo_accel.profile.device import choose_device

RESULTS = Path("runs")
Loss = Callable[[Job], float | None]
"""A job's loss; None without a result."""
Make = Callable[[float, int], Job]
"""A method's job at a learning rate, with a seed."""

# A rate at an end of the grid is the best one only if it beats its neighbour by more than this share.
_TELLING = 0.002
_BATCH = 10
"""Jobs per start of the processes, which takes seconds, on loopback, where no clock matters."""


def run_jobs(
    name: str, jobs: Callable[[Store], Sequence[Job]], store: Store, console: Console, minutes: float | None = None
) -> bool:
    """All `jobs`, batch by batch, until none is missing; returns whether none is left.

    No batch is started that, at the pace of those before, would end later than `minutes` from now. Raises as
    `run_batch` does; what was finished before is kept.
    """
    from benchmarks.kit.material import make_material

    until, pace_s = None if minutes is None else time.monotonic() + 60 * minutes, 0.0
    while True:
        known = dict.fromkeys(jobs(store))
        missing = [job for job in known if store.find(job) is None]
        console.print(f"{name}: {len(known) - len(missing)} of {len(known)} runs", highlight=False)
        if not missing:
            return True
        began, first = time.monotonic(), missing[0]
        batch = [job for job in missing if (job.place, job.sites) == (first.place, first.sites)][:_BATCH]
        if first.place == "lab":
            # In processes of its own: another `GeoSync` in the same one would go on with the plan of the one before.
            batch = [first]
        if until is not None and began + pace_s * len(batch) >= until:
            console.print("the time was over before everything was run: the command goes on from here")
            return False
        for job in batch:
            make_material(job, store.folder)
        run_batch(batch, store, name=name)
        pace_s = (time.monotonic() - began) / len(batch)


def arguments_of(description: str) -> argparse.ArgumentParser:
    """The options that all studies share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--minutes", type=float, metavar="M", help="start nothing new after M minutes; 0 only reports")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help=f"default: {RESULTS}")
    return parser


def run_study(
    name: str,
    options: argparse.Namespace,
    jobs: Callable[[Store], Sequence[Job]],
    figures: Callable[[Store], object],
    tables: Callable[[object], Sequence[Table]],
    draw: Callable[[Path, object, Store], Sequence[Path]] = lambda folder, figures, store: (),
) -> int:
    """Runs what is missing and reports into a folder of that `name`; returns the exit code: 1 where something failed
    or nothing was run, 130 after Ctrl-C.

    `jobs` are those known so far, first ones first: results may decide about further ones. `figures` are ready for
    JSON, empty where there is nothing to say yet; `tables` and pictures, which `draw` makes below a folder, show them.
    """
    console, store, folder = Console(), Store(options.results / "jobs"), options.results / name
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        places = {job.place for job in jobs(store)} if options.minutes != 0 else set()
        if "lab" in places and (reason := why_unavailable()) is not None:
            raise ValueError(f"this machine cannot emulate a network, and nothing is faked: {reason}")
        if "gpu" in places and choose_device("auto").type != "cuda":
            raise ValueError("torch sees no accelerator here.")
        run_jobs(name, jobs, store, console, options.minutes)
        found = figures(store)
        if not found:
            raise ValueError("there are no results yet: give it more --minutes.")
        files = [*report(folder, found, tables(found), console), *draw(folder, found, store)]
        console.print(f"written: {', '.join(map(str, files))}", highlight=False)
    except (RunFailed, ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped; finished runs are kept", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def all_rates(base: Sequence[float]) -> tuple[float, ...]:
    """The grid with both of the values it can be widened by."""
    return (base[0] / 2, *base, base[-1] * 2)


def grid(methods: Sequence[Make], base: Sequence[float], loss: Loss) -> tuple[float, ...]:
    """The learning rates for all `methods`: `base`, and one value more on a side where any of them does best at that
    end. A method that lacks a result at one of `base` has no say yet."""
    tried = [[loss(make(rate, 0)) for rate in base] for make in methods]
    known = [losses for losses in tried if None not in losses]
    ends = {base[0] / 2: (0, 1), base[-1] * 2: (-1, -2)}
    wide = (
        rate
        for rate, (end, beside) in ends.items()
        if any(some[end] == min(some) and some[end] < some[beside] * (1 - _TELLING) for some in known)
    )
    return (*base, *wide)


def best_rate(make: Make, base: Sequence[float], loss: Loss) -> float | None:
    """The rate with the smallest loss for the first seed, among those that have results and did not diverge."""
    found = {rate: loss(make(rate, 0)) for rate in all_rates(base)}
    known = {rate: value for rate, value in found.items() if value is not None and math.isfinite(value)}
    return min(known, key=known.__getitem__) if known else None


def search(methods: Sequence[Make], base: Sequence[float], seeds: int, loss: Loss) -> list[Job]:
    """The jobs that are known so far, first ones first; results decide about further ones.

    First every method at every rate of `base`, then at what the grid is widened by, then the other seeds at each
    method's best.
    """
    rates = grid(methods, base, loss)
    jobs = [make(rate, 0) for some in (rates[: len(base)], rates[len(base) :]) for make in methods for rate in some]
    if any(loss(job) is None for job in jobs):
        return jobs
    best = [(make, rate) for make in methods if (rate := best_rate(make, base, loss)) is not None]
    return [*jobs, *(make(rate, seed) for make, rate in best for seed in range(1, seeds))]
