# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Makes the runs that are missing, in batches of several per start of the processes, most important ones first."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.loss.cases import Case
from benchmarks.loss.order import remaining, wanted
from benchmarks.loss.store import Run, RunFailed, Store
from geo_accel.testing.launch import run_workers

BATCH = 10
"""Runs per start of the processes, which takes seconds."""
_STARTING_S = 180.0
_LONGEST_RUN_S = 120.0


class Campaign:
    """Runs parts until they are done or the time is over."""

    def __init__(
        self, store: Store, material: Path, console: Console, *, seeds: int, minutes: float | None, device: str
    ) -> None:
        """No batches are started that, at the pace of those before, would end later than `minutes` from now; None sets
        no limit. `device` is "cpu" or "cuda"."""
        self._store, self._material, self._console, self._seeds = store, material, console, seeds
        self._device = device
        self._until = None if minutes is None else time.monotonic() + 60 * minutes
        self._failures = 0
        self._pace_s = 0.0  # per process and run
        self.complete = True
        """Whether nothing was left out for lack of time."""
        self.left_out: dict[str, str] = {}
        """Why a case is not run, by its label."""

    def run(self, parts: Mapping[str, Sequence[Case]]) -> None:
        """All runs of all parts. Raises RunFailed where two batches in a row come to nothing."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # The workers need the machine: a slow clock costs next to nothing.
        with Progress(*columns, console=self._console, refresh_per_second=1, speed_estimate_period=600) as bars:
            tasks = {name: bars.add_task(name, total=self._left(cases), start=False) for name, cases in parts.items()}
            for name, cases in parts.items():
                bars.start_task(tasks[name])
                done = 0
                while batches := self._next(cases):
                    began, runs = time.monotonic(), [run for batch in batches for run in batch]
                    work = sum(run.case.group.sites for run in runs)
                    if self._until is not None and began + self._pace_s * work > self._until:
                        self.complete = False
                        return
                    with (
                        self._counting(
                            runs,
                            lambda finished, name=name, done=done: bars.update(tasks[name], completed=done + finished),
                        ),
                        ThreadPoolExecutor(len(batches)) as pool,
                    ):
                        outputs = list(pool.map(self._batch, batches))
                    self._pace_s = (time.monotonic() - began) / work
                    for batch, output in zip(batches, outputs, strict=True):
                        self._account(batch, output)
                    done += len(runs)
                    bars.update(tasks[name], completed=done, total=done + self._left(cases))
                bars.stop_task(tasks[name])

    def _base(self, cases: Sequence[Case]) -> tuple[float, ...]:
        return cases[0].group.rates

    def _refused(self, case: Case) -> bool:
        return case.label in self.left_out

    def _left(self, cases: Sequence[Case]) -> int:
        return remaining(cases, self._base(cases), self._seeds, self._store.loss, self._refused)

    def _next(self, cases: Sequence[Case]) -> list[list[Run]]:
        """Batches to run side by side, each on cores of its own."""
        side_by_side = max(1, len(os.sched_getaffinity(0)) // cases[0].group.sites)
        runs = wanted(cases, self._base(cases), self._seeds, self._store.loss, self._refused)[: BATCH * side_by_side]
        return [batch for first in range(side_by_side) if (batch := runs[first::side_by_side])]

    def _batch(self, runs: Sequence[Run]) -> str | None:
        """Makes the runs; returns what a failed process printed."""
        store = self._store
        definitions = {store.key(run): run.definition(store.setting, store.digests) for run in runs}
        batch = {
            "material": str(self._material),
            "results": str(store.folder.resolve()),
            "device": self._device,
            "runs": definitions,
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "batch.json")
            path.write_text(json.dumps(batch))
            try:
                finished = run_workers(
                    ["benchmarks.loss.worker", "--batch", str(path)],
                    sites=(1,) * runs[0].case.group.sites,
                    timeout_s=_STARTING_S + _LONGEST_RUN_S * len(runs),
                    environ={"GEO_ACCEL_TRACE": "", "ACCELERATE_USE_CPU": str(self._device == "cpu").lower()},
                )
                return next((one.output for one in finished if one.returncode), None)
            except TimeoutError as error:
                return str(error)

    def _account(self, runs: Sequence[Run], output: str | None) -> None:
        """Takes note of what a batch refused or, with `output`, failed to run."""
        store = self._store
        for run in runs:
            refusal = store.take_refusal(run)
            if refusal is not None:
                self._leave_out(run.case, refusal)
        if output is None:
            self._failures = 0
            return
        # A case that breaks must not keep the others from being run; what breaks at the start would break them all.
        missing = [run for run in runs if store.find(run) is None and not self._refused(run.case)]
        if not missing:
            return
        self._failures = self._failures + 1 if len(missing) == len(runs) else 0
        if self._failures > 1:
            raise RunFailed(f"the processes of a batch failed again:\n{output[-3000:]}")
        reason = next((line for line in reversed(output.splitlines()) if "Error" in line), "no error was printed")
        self._leave_out(missing[0].case, f"failed: {reason}")

    def _leave_out(self, case: Case, reason: str) -> None:
        if case.label not in self.left_out:
            self.left_out[case.label] = reason
            self._console.print(f"{case.label} is left out: {reason}", highlight=False, markup=False)

    @contextmanager
    def _counting(self, runs: Sequence[Run], tell) -> Iterator[None]:
        """Tells how many of `runs` have a result, about once a second, from a thread beside the batch."""
        over = threading.Event()
        paths = [self._store.folder / f"{self._store.key(run)}.json" for run in runs]

        def watch() -> None:
            while not over.wait(1.0):
                tell(sum(path.exists() for path in paths))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
