# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Runs one job, in the lab or on loopback, and keeps its result."""

import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.kit.environment import steady
from benchmarks.loss.clock.jobs import BANDWIDTH_MBPS, SITES, Job
from benchmarks.loss.results import ResultFiles, save_result
from benchmarks.loss.setting import Setting
from benchmarks.loss.store import RunFailed
from geo_accel.lab import Lab, make_sites
from geo_accel.lab.output import LineSplitter
from geo_accel.testing.launch import run_workers

TIMEOUT_S = 1200.0
_LINES_OF_A_FAILURE = 15


class Results:
    """The results of jobs."""

    def __init__(self, folder: Path, setting: Setting, material: Path, digests: dict[str, str]) -> None:
        self.folder, self.setting, self.material, self._digests = folder, setting, material.resolve(), digests
        self._files = ResultFiles(folder)

    def find(self, job: Job) -> dict | None:
        """`recordings` by site, `link_mbps` and `date`; None without a result."""
        return self._files.find(job.key(self.setting, self._digests))

    def loss(self, job: Job) -> float | None:
        """Held-out loss, nats per token."""
        result = self.find(job)
        return result["recordings"][0]["eval_loss"] if result else None

    def run(self, job: Job, on_step: Callable[[float], None]) -> None:
        """Trains and keeps the result; `on_step` gets how many steps, a mean over sites, have been added.

        Raises RunFailed, LabUnavailable where this machine cannot emulate a network, ValueError where the network is
        not as wanted.
        """
        with tempfile.TemporaryDirectory() as folder:
            told = {"job": asdict(job), "setting": asdict(self.setting), "material": str(self.material)}
            file = Path(folder, "job.json")
            file.write_text(json.dumps(told))
            command = ["benchmarks.loss.clock.worker", "--job", str(file), "--out", folder]
            speeds = _in_lab(command, on_step) if job.place == "lab" else _on_loopback(command)
            recordings = [json.loads(Path(folder, f"rank-{rank}.json").read_text()) for rank in range(SITES)]
        if len({recording["weights"] for recording in recordings}) != 1:
            raise RunFailed(f"{job.name}: the sites do not hold the same model after their average.")
        result = {
            "job": asdict(job),
            "link_mbps": speeds,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "recordings": recordings,
        }
        save_result(self.folder, job.key(self.setting, self._digests), result)


def _in_lab(command: list[str], on_step: Callable[[float], None]) -> list[float]:
    """Runs the sites over the emulated WAN; returns the goodput that the lab's probe saw, 10**6 bits per second."""
    splitters = [LineSplitter() for _ in range(SITES)]
    output: list[deque[str]] = [deque(maxlen=_LINES_OF_A_FAILURE) for _ in range(SITES)]

    def take(site: int, piece: bytes) -> None:
        for line in splitters[site].feed(piece, time.monotonic()):
            word, _, number = line.partition(" ")
            if word == "step" and number.isdigit():
                on_step(1 / SITES)
            else:
                output[site].append(line)

    result = Lab(
        [sys.executable, "-m", *command],
        make_sites(SITES, bandwidth_mbps=BANDWIDTH_MBPS),
        env=steady(),
        cwd=Path(__file__).parents[3],
    ).run(timeout_s=TIMEOUT_S, on_output=take)
    if result.exit_code or result.stopped_by:
        tails = "\n".join(f"[site{site}] {line}" for site, lines in enumerate(output) for line in lines)
        raise RunFailed(f"a run in the lab failed ({result.stopped_by or result.exit_code}):\n{tails}")
    return [site.measured_mbps for site in result.sites]


def _on_loopback(command: list[str]) -> list[float]:
    try:
        finished = run_workers(command, sites=(1,) * SITES, timeout_s=TIMEOUT_S, environ={"GEO_ACCEL_TRACE": ""})
    except TimeoutError as error:
        raise RunFailed(f"a run did not end within {TIMEOUT_S:.0f} s:\n{error}") from error
    for rank, worker in enumerate(finished):
        if worker.returncode:
            raise RunFailed(f"rank {rank} failed:\n{worker.output[-3000:]}")
    return []
