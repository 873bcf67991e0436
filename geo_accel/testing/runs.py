# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Reading back what `train_worker` runs left behind."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from geo_accel.testing.launch import Finished, run_workers

WORKER = "geo_accel.testing.train_worker"


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
    timeout_s: float = 150.0,
) -> dict[str, Run]:
    """Runs the worker with several argument lists in one launch; returns runs by name. Every rank must succeed.

    `per_rank` adds arguments to every run of a rank.
    """
    commands = {}
    for rank in range(sum(sites)):
        commands[rank] = []
        for name, arguments in runs.items():
            commands[rank] += [*arguments, *(per_rank or {}).get(rank, ()), "--out", str(out / name), "--and"]
        commands[rank].pop()
    for rank, finished in enumerate(run_workers([WORKER], sites=sites, per_rank=commands, timeout_s=timeout_s)):
        assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-4000:]}"
    return {name: Run(out / name) for name in runs}


def error_lines(finished: Finished) -> list[str]:
    """What a worker printed for its user when it gave up."""
    return [line for line in finished.output.splitlines() if line.startswith("error: ")]
