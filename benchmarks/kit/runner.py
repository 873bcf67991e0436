# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Starts the sites of a batch of jobs, follows their steps, and keeps the results."""

import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.kit.environment import code_digest, now, steady
from benchmarks.kit.job import Job
from benchmarks.kit.store import Store
from geo_accel.lab import Lab, LabResult, make_sites
from geo_accel.lab.output import LineSplitter

ROOT = Path(__file__).parents[2]
_STARTING_S, _LONGEST_JOB_S = 180.0, 1500.0
_LINES_OF_A_FAILURE = 15


class RunFailed(RuntimeError):
    """A site failed; the message has the last lines of all."""


def run_batch(
    jobs: Sequence[Job],
    store: Store,
    on_step: Callable[[float], None] = lambda steps: None,
    *,
    name: str = "a run",
    save: Path | None = None,
    trace: Path | None = None,
) -> list[dict]:
    """Trains `jobs`, which share places and links, one after another in the same processes; keeps and returns results.

    `on_step` gets how many steps, a mean over sites, have been added; `save` is where the model of the only job goes,
    `trace` a folder for traces. A job that geo_accel refuses gets {"refused": why}, which is not kept.

    Raises RunFailed if a site fails, once what was finished before is kept; LabUnavailable where this machine cannot
    emulate a network, ValueError where the network is not as wanted.
    """
    first = jobs[0]
    keys = {store.key(job): job for job in jobs}
    output = _Output(first.sites, on_step)
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder, "batch.json")
        told = {key: asdict(job) for key, job in keys.items()}
        batch.write_text(json.dumps({"store": str(store.folder), "jobs": told}))
        command = [sys.executable, "-m", "benchmarks.kit.worker", "--batch", str(batch)]
        command += ["--save", str(save.resolve())] if save is not None else []
        extra = {"GEO_ACCEL_TRACE": str(trace)} if trace is not None else {}
        if first.zero is not None:
            # Ranks of one machine share memory in DeepSpeed, which here would be the network.
            extra |= {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "1"}
        extra["ACCELERATE_USE_CPU"] = str(first.place != "gpu").lower()
        # On loopback, where no network is asked for, sites are not shaped.
        how = {"bandwidth_mbps": first.mbps, "downlink_mbps": first.down_mbps or None}
        sites = make_sites(first.sites, **(how if first.place == "lab" else {"shaping": False}))
        lab = Lab(command, sites, env=steady(**extra), cwd=ROOT, grace_s=15.0)
        done = lab.run(timeout_s=_STARTING_S + _LONGEST_JOB_S * len(jobs), on_output=output.take)
        results = [_result(job, key, Path(folder), done) for key, job in keys.items()]
    for job, result in zip(jobs, results, strict=True):
        if result is None or "refused" in result:
            continue
        if len({one["weights"] for one in result["recordings"]}) != 1:
            raise RunFailed(f"{name}, {job.method}: the sites do not hold the same model after their average.")
        store.save(job, result)
    if done.stopped_by is not None or done.exit_code:
        failed = [f"{site.name} ended with {site.exit_code}" for site in done.sites if site.exit_code]
        reason = f"stopped by {done.stopped_by}" if done.stopped_by else ", ".join(failed)
        raise RunFailed(f"{name} failed: {reason}.\n{output.ends()}")
    return results


def _result(job: Job, key: str, folder: Path, done: LabResult) -> dict | None:
    """What the sites wrote of a job; None unless all did."""
    files = [folder / f"{key}.{site}.json" for site in range(job.sites)]
    if not all(file.exists() for file in files):
        return None
    recordings = [json.loads(file.read_text()) for file in files]
    if "refused" in recordings[0]:
        return {"refused": recordings[0]["refused"]}
    return {
        "job": asdict(job),
        "recordings": recordings,
        "link_mbps": [site.measured_mbps for site in done.sites],
        "duration_s": done.duration_s,
        "notes": done.notes,
        "date": now(),
        "code": code_digest(),
    }


class _Output:
    """Sorts the sites' lines into steps and the rest, of which the last are kept."""

    def __init__(self, sites: int, on_step: Callable[[float], None]) -> None:
        self._splitters = [LineSplitter() for _ in range(sites)]
        self._lines: list[deque[str]] = [deque(maxlen=_LINES_OF_A_FAILURE) for _ in range(sites)]
        self._on_step = on_step

    def take(self, site: int, piece: bytes) -> None:
        for line in self._splitters[site].feed(piece, time.monotonic()):
            if line == "step":
                self._on_step(1 / len(self._lines))
            elif line != "job done":
                self._lines[site].append(line)

    def ends(self) -> str:
        """The last lines of every site."""
        return "\n".join(f"[site{site}] {line}" for site, lines in enumerate(self._lines) for line in lines)
