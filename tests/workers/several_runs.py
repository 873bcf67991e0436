# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Several runs, one after the other, in one worker process, which share its imports and its process group."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.distributed as dist

from geo_accel import SiteLostError


def run_each(run: Callable[[list[str]], int], arguments: list[str] | None = None) -> int:
    """`run(its arguments)` for each of the runs that `--and` stands between, up to the first that fails; returns the
    exit code."""
    for category in (DeprecationWarning, FutureWarning):  # deprecated calls in our own code are errors, as in pytest
        warnings.filterwarnings("error", category=category, module="geo_accel")
    runs: list[list[str]] = [[]]
    for argument in sys.argv[1:] if arguments is None else arguments:
        if argument == "--and":
            runs.append([])
        else:
            runs[-1].append(argument)
    code = next(filter(None, map(run, runs)), 0)
    if code == 0 and dist.is_initialized():
        dist.destroy_process_group()  # gloo's threads must not outlive the interpreter: docs/limits.md
    return code


def record_each(scenarios: Mapping[str, Callable[[Path], dict]]) -> int:
    """`OUT NAME ...` on the command line: each scenario's record into OUT/NAME.rank-R.json. Needs a process group, at
    the latest when the first scenario has ended; returns the exit code."""
    out, names = Path(sys.argv[1]), sys.argv[2:]
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        record = scenarios[name](out)
        (out / f"{name}.rank-{dist.get_rank()}.json").write_text(json.dumps(record))
    dist.barrier()
    dist.destroy_process_group()
    return 0


def exit_code(run: Callable[[], None]) -> int:
    """How `run` ended: 0, or 2 for a user's mistake; for a lost site the process exits with 3 at once."""
    try:
        run()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SiteLostError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)  # the connections that are left would make a tidy exit wait
    return 0
