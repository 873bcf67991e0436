# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Starts the sites of a batch of jobs, follows their steps, and keeps the results."""

import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.kit.job import Job
from benchmarks.kit.store import Store
from geo_accel.lab import Lab, make_sites
from geo_accel.lab.output import LineSplitter

WORKER = [sys.executable, "-m", "benchmarks.kit.worker"]
"""Starts a worker; tests put a start in its place that need not wait for imports."""
ROOT = Path(__file__).parents[2]
_STARTING_S, _LONGEST_JOB_S = 180.0, 1500.0
_LINES_OF_A_FAILURE = 15

# glibc gives memory back to the system and takes it again in every step, some thousand pages, more or fewer by chance:
# runs of one kind differed by 8 % in step time, and differ by 1 % with an allocator that keeps what it has.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**26)}


def steady(**more: str) -> dict[str, str]:
    """This process's environment with one thread per process, no hub and an even memory; `more` joins it.

    What a user set for geo_accel in the shell is left out: it would be measured in place of what is written here.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GEO_ACCEL_")}
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**inherited, **quiet, **_KEEP_MEMORY, **more}


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
    `trace` a folder for traces. The jobs' material must be in the store.

    Raises RunFailed if a site fails, once what was finished before is kept; LabUnavailable where this machine cannot
    emulate a network, ValueError where the network is not as wanted.
    """
    first = jobs[0]
    splitters = [LineSplitter() for _ in range(first.sites)]
    last = [deque(maxlen=_LINES_OF_A_FAILURE) for _ in range(first.sites)]

    def listen(site: int, piece: bytes) -> None:
        lines = splitters[site].feed(piece, time.monotonic())
        on_step(lines.count("step") / first.sites)
        last[site].extend(line for line in lines if line != "step")

    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder, "batch.json")
        told = {"store": str(store.folder), "jobs": list(map(asdict, jobs)), "save": save and str(save.resolve())}
        batch.write_text(json.dumps(told))
        extra = {"GEO_ACCEL_TRACE": str(trace)} if trace is not None else {}
        if first.zero is not None:
            # Ranks of one machine share memory in DeepSpeed, which here would be the network.
            extra |= {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "1"}
        extra["ACCELERATE_USE_CPU"] = str(first.place != "gpu").lower()
        # On loopback, where no network is asked for, sites are not shaped.
        how = {"bandwidth_mbps": first.mbps, "downlink_mbps": first.down_mbps or None}
        sites = make_sites(first.sites, **(how if first.place == "lab" else {"shaping": False}))
        lab = Lab([*WORKER, str(batch)], sites, env=steady(**extra), cwd=ROOT, grace_s=15.0, jobs=first.apart)
        done = lab.run(timeout_s=_STARTING_S + _LONGEST_JOB_S * len(jobs), on_output=listen)
        for job in jobs:
            files = [Path(folder, f"{job.key}.{site}.json") for site in range(job.sites)]
            if not all(file.exists() for file in files):
                continue
            recordings = [json.loads(file.read_text()) for file in files]
            if len({one["weights"] for one in recordings}) != 1:
                raise RunFailed(f"{name}, {job.method}: the sites do not hold the same model after their average.")
            result = {"job": asdict(job), "recordings": recordings, "duration_s": done.duration_s, "notes": done.notes}
            store.save(job, result | {"link_mbps": [site.measured_mbps for site in done.sites]})
    if done.stopped_by is not None or done.exit_code:
        failed = [f"{site.name} ended with {site.exit_code}" for site in done.sites if site.exit_code]
        reason = f"stopped by {done.stopped_by}" if done.stopped_by else ", ".join(failed)
        ends = "\n".join(f"[site{site}] {line}" for site, lines in enumerate(last) for line in lines)
        raise RunFailed(f"{name} failed: {reason}.\n{ends}")
    return [store.find(job) for job in jobs]
