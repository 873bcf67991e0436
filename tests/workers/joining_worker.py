# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A training script that joins the other sites and takes no step: `python -m tests.workers.joining_worker NAME=VALUE`.

The arguments are environment variables, so that ranks may differ in them. It ends as the recipes do.
"""

import os
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator

from geo_accel import GeoSync
from recipes.exits import run_recipe

PATIENCE_S = 2


def run(arguments: Sequence[str]) -> None:
    os.environ.update(argument.split("=", 1) for argument in arguments)
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(2, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    config = {"resilience": {"patience_s": PATIENCE_S}}
    with GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=config):
        print("the sites have met")


if __name__ == "__main__":
    sys.exit(run_recipe(run, sys.argv[1:]))
