# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Starts worker processes the way launchers do, several per emulated machine, all on loopback."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from geo_accel.sites import authority


@dataclass(frozen=True, slots=True)
class Finished:
    """How one worker ended."""

    returncode: int
    output: str


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_python(command: Sequence[str], environ: Mapping[str, str], output: IO) -> subprocess.Popen:
    """`python -m COMMAND` with exactly that environment, its output to a file."""
    return subprocess.Popen([sys.executable, "-m", *command], env=environ, stdout=output, stderr=subprocess.STDOUT)


start_worker = start_python
"""How `run_workers` starts a process; tests put `forking.ForkServers().start` in its place."""


@cache
def keys() -> Path:
    """A folder with key files for sites site0 to site3, made once per process and removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="geo_accel-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    authority.init(folder)
    for number in range(4):
        authority.add(folder, f"site{number}")
    return folder


def of_a_job(machine: int, local_rank: int, size: int, sites: int, meet: int) -> dict[str, object]:
    """Variables of a process of a job that is site number `machine`; the first site listens at port `meet`."""
    return {
        "RANK": local_rank,
        "WORLD_SIZE": size,
        "GROUP_RANK": 0,
        "GEO_ACCEL_SITE": f"site{machine}",
        "GEO_ACCEL_KEYS": keys() / f"site{machine}.pem",
        "GEO_ACCEL_MEET": f"127.0.0.1:{meet}" if machine else f"listen:127.0.0.1:{meet}",
        "GEO_ACCEL_EXPECT": sites,
    }


def run_workers(
    command: Sequence[str],
    sites: Sequence[int] = (1, 1),
    timeout_s: float = 120.0,
    environ: Mapping[str, str] | None = None,
    per_rank: Mapping[int, Sequence[str]] | None = None,
    jobs: bool = False,
) -> list[Finished]:
    """Runs `python -m COMMAND` once per rank, on machines of `sites` ranks each; returns results by rank.

    `per_rank` appends arguments for single ranks. With `jobs` every machine has a job of its own, which is a site.
    All workers are killed, and TimeoutError raised with their output, when `timeout_s` is over.
    """
    port, world_size, meet = free_port(), sum(sites), free_port()
    processes, logs = [], []
    for machine, size in enumerate(sites):
        port = free_port() if jobs else port
        for local_rank in range(size):
            rank = len(processes)
            variables = {
                "RANK": rank,
                "WORLD_SIZE": world_size,
                "LOCAL_RANK": local_rank,
                "LOCAL_WORLD_SIZE": size,
                "GROUP_RANK": machine,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": 1,
                "ACCELERATE_USE_CPU": "true",
                "GLOO_SOCKET_IFNAME": "lo",
                "HF_HUB_OFFLINE": 1,
                "PYTHONFAULTHANDLER": 1,
            }
            if jobs:
                variables |= of_a_job(machine, local_rank, size, len(sites), meet)
                variables |= {"RUN_RANK": rank, "RUN_WORLD_SIZE": world_size}
            # A file, not a pipe: no worker ever waits for its output to be read. Closed below.
            log = tempfile.TemporaryFile("w+")  # noqa: SIM115
            logs.append(log)
            processes.append(
                start_worker(
                    [*command, *(per_rank or {}).get(rank, ())],
                    {**os.environ, **{k: str(v) for k, v in variables.items()}, **(environ or {})},
                    log,
                )
            )
    timed_out = False
    try:
        for process in processes:
            process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    finished = []
    for process, log in zip(processes, logs, strict=True):
        log.seek(0)
        finished.append(Finished(process.returncode, log.read()))
        log.close()
    if timed_out:
        raise TimeoutError("\n".join(f"--- rank {r}\n{f.output[-3000:]}" for r, f in enumerate(finished)))
    return finished
