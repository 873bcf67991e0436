# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A study: a list of jobs, and what is made of their results. Runs what is missing and reports what there is."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.kit.job import Job
from benchmarks.kit.report import Table, report
from benchmarks.kit.runner import RunFailed, run_batch
from benchmarks.kit.store import Store
from geo_accel.lab import why_unavailable
from geo_accel.profile.device import choose_device

RESULTS = Path("runs")
_BATCH = 10
"""Jobs per start of the processes, which takes seconds, where no clock matters."""
_LAB_BATCH = 16


class Campaign:
    """Runs the jobs of studies until none is missing or the time is over."""

    def __init__(self, store: Store, console: Console, minutes: float | None = None) -> None:
        """No batch is started that, at the pace of those before, would end later than `minutes` from now."""
        self._store, self._console = store, console
        self._until = None if minutes is None else time.monotonic() + 60 * minutes
        self._pace_s = 0.0  # per process and job
        self._failures = 0

    def run(self, name: str, jobs: Callable[[Store], Sequence[Job]]) -> bool:
        """All `jobs`; returns whether none is left. Raises RunFailed where two batches in a row come to nothing."""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        # The workers need the machine: a slow clock costs next to nothing.
        with Progress(*columns, console=self._console, refresh_per_second=1) as bars:
            whole, steps = bars.add_task(name, total=None), bars.add_task("steps", total=None)
            while True:
                make_materials(jobs(self._store), self._store, lambda done: bars.update(steps, completed=done))
                known = list(dict.fromkeys(jobs(self._store)))
                missing = [job for job in known if not self._settled(job)]
                bars.update(whole, total=len(known), completed=len(known) - len(missing))
                if not missing:
                    return True
                batches = self._next(missing)
                count = sum(job.sites for batch in batches for job in batch)
                began = time.monotonic()
                if self._until is not None and began + self._pace_s * count > self._until:
                    self._console.print("the time was over before everything was run: the command goes on from here")
                    return False
                bars.reset(steps, total=sum(job.steps for batch in batches for job in batch) or None)
                with ThreadPoolExecutor(len(batches)) as pool:
                    list(pool.map(lambda batch: self._run(name, batch, lambda n: bars.advance(steps, n)), batches))
                self._pace_s = (time.monotonic() - began) / count

    def _settled(self, job: Job) -> bool:
        return self._store.find(job) is not None or self._store.key(job) in self._store.refused

    def _next(self, missing: Sequence[Job]) -> list[list[Job]]:
        """Batches to run side by side, each on cores of its own; in the lab one at a time."""
        first = missing[0]
        alike = [job for job in missing if _start_of(job) == _start_of(first)]
        if first.place == "lab":
            return [alike[:_LAB_BATCH] if first.series else [first]]
        side_by_side = max(1, len(os.sched_getaffinity(0)) // first.sites)
        alike = alike[: _BATCH * side_by_side]
        return [batch for start in range(side_by_side) if (batch := alike[start::side_by_side])]

    def _run(self, name: str, batch: Sequence[Job], on_step: Callable[[float], None]) -> None:
        try:
            results = run_batch(batch, self._store, on_step, name=name)
        except RunFailed as error:
            # A job that breaks must not keep the others from being run; what breaks at the start would break them all.
            missing = [job for job in batch if not self._settled(job)]
            self._failures = self._failures + 1 if len(missing) == len(batch) else 0
            if self._failures > 1 or batch[0].place == "lab":
                raise
            results = []
            if missing:
                self._leave_out(missing[0], f"failed: {str(error).splitlines()[-1]}")
        else:
            self._failures = 0
        for job, result in zip(batch, results, strict=False):
            if "refused" in result:
                self._leave_out(job, result["refused"])

    def _leave_out(self, job: Job, reason: str) -> None:
        self._store.refused[self._store.key(job)] = reason
        self._console.print(f"left out: {job.method} {job.config or ''}: {reason}", highlight=False, markup=False)


def _start_of(job: Job) -> tuple:
    """What jobs share that the same processes may train."""
    return job.place, job.sites, job.mbps, job.down_mbps, job.zero, job.setting.precision, job.series


def make_materials(jobs: Sequence[Job], store: Store, on_step: Callable[[int], None] = lambda done: None) -> None:
    """Makes what the `jobs` need unless it is there, and tells the `store`, whose keys have its digests."""
    from benchmarks.kit.material import make_material, name_of

    by_name: dict[str, Job] = {}
    for job in jobs:
        if job.pretrained or name_of(job) not in by_name:
            by_name[name_of(job)] = job
    for name, job in by_name.items():
        if name not in store.digests or (job.pretrained and "start" not in store.digests[name]):
            device = "cuda" if job.place == "gpu" else "cpu"
            store.digests[name] = make_material(job, store.folder, on_step, device)


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
        Campaign(store, console, options.minutes).run(name, jobs)
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
