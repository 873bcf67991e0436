# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Reading back what `train_worker` runs left behind."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.workers.launch import Finished, run_workers

WORKER = "tests.workers.train_worker"


class Run:
    """Records and final weights of one run, by rank."""

    def __init__(self, out: Path) -> None:
        paths = sorted(out.glob("rank-*.json"), key=lambda path: int(path.stem.split("-")[1]))
        self.records = [json.loads(path.read_text()) for path in paths]
        self.weights: list[dict[str, torch.Tensor]] = [load_file(path.with_suffix(".safetensors")) for path in paths]

    def is_agreed(self) -> bool:
        """Whether all ranks hold the same bits."""
        return all(torch.equal(self.weights[0][name], other[name]) for other in self.weights for name in other)


def distance(a: Run, b: Run) -> float:
    """Largest difference between any two weights of the runs, rank by rank."""
    return max(
        (left[name].double() - right[name].double()).abs().max().item()
        for left, right in zip(a.weights, b.weights, strict=True)
        for name in left
    )


def train(
    out: Path,
    runs: Mapping[str, Sequence[str]],
    sites: Sequence[int] = (1, 1),
    per_rank: Mapping[int, Sequence[str]] | None = None,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = 150.0,
    jobs: bool = False,
) -> dict[str, Run]:
    """Runs the worker with several argument lists in one launch; returns runs by name. Every rank must succeed.

    `per_rank` adds arguments to every run of a rank. With `jobs` every site is a job of its own.
    """
    commands = {}
    for rank in range(sum(sites)):
        commands[rank] = []
        for name, arguments in runs.items():
            commands[rank] += [*arguments, *(per_rank or {}).get(rank, ()), "--out", str(out / name), "--and"]
        commands[rank].pop()
    results = run_workers([WORKER], sites, timeout_s, environ, commands, jobs)
    for rank, finished in enumerate(results):
        assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-4000:]}"
    return {name: Run(out / name) for name in runs}


def error_lines(finished: Finished) -> list[str]:
    """What a worker printed for its user when it gave up."""
    return [line for line in finished.output.splitlines() if line.startswith("error: ")]


def windows_without(traces: Sequence[Path], period: int, steps: int, begin: int = 1) -> list[tuple[int, int]]:
    """(unit, first step) of every window of `period` steps, from step `begin` on, that did not start a unit whole.

    `traces` are one rank's, in order; only rounds of the plan count, flushes do not. Empty where the promise holds.
    """
    started: dict[int, dict[int, float]] = {}
    for path in traces:
        for event in json.loads(path.read_text())["traceEvents"]:
            if event.get("cat") == "transfer" and event["args"]["slot"] is not None:
                for unit, _, parts in event["args"]["pieces"]:
                    shares = started.setdefault(unit, {})
                    step = event["args"]["step"]
                    shares[step] = shares.get(step, 0.0) + 1 / parts
    assert started, "no rounds were traced"
    return [
        (unit, first)
        for unit, shares in started.items()
        for first in range(begin, steps - period + 2)
        if sum(share for step, share in shares.items() if first <= step < first + period) < 1 - 1e-9
    ]
