# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The environment of every measured process, whatever the method; and what is said of the machine."""

import os
import platform
import sys
from importlib.metadata import version

from geo_accel.profile.device import processor_name
from geo_accel.version import __version__

# glibc gives memory back to the system and takes it again in every step, some thousand pages, more or fewer by chance:
# runs of one kind differed by 8 % in step time, and differ by 1 % with an allocator that keeps what it has.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
}


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
