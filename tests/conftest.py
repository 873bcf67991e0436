# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What holds for every test: one thread per process, workers from fork servers, no network, no geo_accel variables
left over from the shell.

Tests marked `lab` say why they are skipped where namespaces are not allowed.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from geo_accel.lab import why_unavailable
from tests.workers import launch
from tests.workers.forking import ForkServers

# No import above brings torch, so these still come before it; worker processes inherit all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# torch asks DNS for the names of both ends of every connection that it makes, and a lost answer costs 5 s by default.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:3")
# The same for all workers, so that they come from the same fork servers.
_paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _paths))
_home = tempfile.TemporaryDirectory(prefix="geo_accel-tests-")
os.environ["HF_HOME"] = _home.name
HAS_CUDA = os.path.exists("/dev/nvidiactl")
if not HAS_CUDA:
    os.environ["DS_ACCELERATOR"] = "cpu"
for _variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
    os.environ[_variable] = "1"

# Timing on a shared machine says nothing about the code: the per-test timeout is what bounds a test.
settings.register_profile("geo_accel", deadline=None, max_examples=100, print_blob=True)
settings.load_profile("geo_accel")


@pytest.fixture(autouse=True)
def _no_geo_accel_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GEO_ACCEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def fork_servers():
    """What workers are started by, None where they are plain processes."""
    # Where there is CUDA, imports may ask for its devices, and a fork of who has asked can use none.
    if HAS_CUDA:
        yield None
        return
    servers = ForkServers()
    launch.start_worker = servers.start
    yield servers
    launch.start_worker = launch.start_python
    servers.close()


@pytest.fixture(scope="session")
def python_m(fork_servers) -> Iterator[list[str]]:
    """`python -m`, to which a module and its arguments are added, for sites of the lab: without its imports where
    workers are forked."""
    if fork_servers is None:
        yield [sys.executable, "-m"]
        return
    with fork_servers.door() as command:
        yield command


_missing_for_the_lab = cache(why_unavailable)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    # Before fixtures, some of which need the lab themselves; only a test that needs it pays for the question.
    if item.get_closest_marker("lab") and (missing := _missing_for_the_lab()):
        pytest.skip(missing)
