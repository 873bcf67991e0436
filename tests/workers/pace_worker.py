# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Steps of a known length: a model that hardly computes and sleeps instead, synchronised for real.

Started once per site. Prints "NAME step N." after every step, with the name of the folder --out, and writes
`rank-R.json` into that: when the first step began and each ended, in seconds, and the engine's summary. A step's
length does not depend on what else the machine does, so a test can tell waiting from computing. Runs with `--and` in
between share one process.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from geo_accel.integrations.session import connect
from geo_accel.sync import planning
from tests.workers.several_runs import run_each


class Weights(nn.Module):
    """`units` units of `values` parameters in all, each used once."""

    def __init__(self, values: int, units: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(values // units, 1, bias=False) for _ in range(units))

    def forward(self, probe: torch.Tensor) -> torch.Tensor:
        return sum(layer.weight[0, 0] * probe for layer in self.layers)


def run(arguments: list[str]) -> int:
    """One run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=2_000_000)
    parser.add_argument("--step-s", type=float, default=0.1)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--config", default="{}", help="the geo_accel block as JSON")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Who sleeps loses nothing to what synchronising takes from the cores.
    planning.measure_handling = lambda *_: {}
    planning.measure_contention = lambda *_: planning.Contention()
    # A job per site has one process here, and no process group.
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    model = Weights(options.values)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    session = connect(json.loads(options.config))
    engine = session.engine(model, optimizer=optimizer)
    boundaries, began = [], time.perf_counter()
    for step in range(1, options.steps + 1):
        loss = model(torch.ones(()))
        time.sleep(options.step_s / 2)
        loss.backward()
        time.sleep(options.step_s / 2)
        optimizer.step()
        optimizer.zero_grad()
        engine.step()
        boundaries.append(time.perf_counter())
        print(f"{options.out.name} step {step}.", flush=True)
    engine.settle()
    record = {"began": began, "boundaries": boundaries, "summary": engine.summary()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"rank-{session.topology.rank}.json").write_text(json.dumps(record))
    engine.close()
    session.control.gather("ending", None)
    return 0


if __name__ == "__main__":
    sys.exit(run_each(run))
