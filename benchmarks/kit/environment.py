# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The environment of every measured process, whatever the method; and what is said of the machine."""

import hashlib
import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import geo_accel
from geo_accel.profile.device import processor_name
from geo_accel.version import __version__

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


def machine() -> dict:
    """Processor, cores that may be used, load averages over 1, 5 and 15 minutes, and versions."""
    packages = ("torch", "transformers", "accelerate", "tokenizers")
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "geo_accel": __version__,
        **{name: version(name) for name in packages},
    }


def now() -> str:
    """The time, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def provenance() -> dict:
    """Where figures come from: said in every file of results."""
    command = " ".join(["python", *sys.orig_argv[1:]])
    return {"date": now(), "command": command, "machine": machine(), "code": code_digest()}


def code_digest() -> str:
    """A short hash over geo_accel's source: no part of a job's key, but every result says which code it is of."""
    folder = Path(geo_accel.__file__).parent
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:12]
