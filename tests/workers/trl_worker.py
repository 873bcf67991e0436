# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Step times of trl's trainers with and without geo_accel, in turns in one process: steps that sleep, so that what
else takes time shows.

Started once per site. Prints one line of JSON: by trainer and by "alone" and "geo" the median seconds of a step, and
the plan.
"""

import argparse
import json
import statistics
import tempfile
import time

import torch
from transformers import TrainerCallback

from geo_accel import plug_into
from tests.workers.models import build_model
from tests.workers.trl_trainers import KINDS, build


class Clock(TrainerCallback):
    """Makes each step sleep, and keeps when it ended."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.ends = step_s, []

    def on_step_begin(self, *_, **__):
        time.sleep(self.step_s)

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())


class Plain:
    """Nothing mixed in."""


def run(kind: str, steps: int, step_s: float, warmup: int, folder: str, *, geo: bool) -> dict:
    """One short training. Nothing is written into `folder`, which is this site's own all the same."""
    clock = Clock(step_s)
    settings = {
        "output_dir": folder,
        "use_cpu": True,
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 5,
    }
    trainer = build(kind, Plain, build_model("gpt2"), 64, settings, callbacks=[clock])
    callback = plug_into(trainer, {}) if geo else None
    trainer.train()
    seconds = [b - a for a, b in zip(clock.ends[warmup:-1], clock.ends[warmup + 1 :], strict=True)]
    plan = callback.summary()["plan"] if callback is not None else {}
    return {
        "step_s": statistics.median(seconds),
        "plan": {key: plan[key] for key in ("period", "codec") if key in plan},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--step-s", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=15)
    parser.add_argument("--turns", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list]] = {kind: {"alone": [], "geo": []} for kind in KINDS}
    folder = tempfile.mkdtemp()
    for turn in range(options.turns):
        for kind, by_way in found.items():
            for way in ("alone", "geo") if turn % 2 == 0 else ("geo", "alone"):
                by_way[way].append(run(kind, options.steps, options.step_s, options.warmup, folder, geo=way == "geo"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
