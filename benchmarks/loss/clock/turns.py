# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Efficiency: in one process, some steps with geo_accel, then as many steps of a twin without, again and again.

Machines have moods: on one of ours a step took 0.24 s for a while and 0.32 s for a while, whatever ran, so of runs one
after the other not even the median of eleven was sure to a few percent. Here both kinds of steps see the same minute.
"""

from time import perf_counter

from accelerate import Accelerator

from benchmarks.demo.worker import digest
from benchmarks.loss.clock.jobs import TEXT, WARMUP, Job
from benchmarks.loss.material import Material
from benchmarks.loss.setting import Setting
from benchmarks.loss.training import Batches, first_model, make_optimizer, make_scheduler, train_step
from geo_accel import GeoSync


def take_turns(job: Job, setting: Setting, material: Material, accelerator: Accelerator) -> dict:
    """Trains for `job.steps` steps with geo_accel. Returns what this site saw: by turn, mean seconds of a step, as
    `geo` and `bare`, geo_accel's own `summary`, and the averaged model's digest as `weights`.

    A turn is one period of the plan, which holds all of its transfers (or as many steps as there are), after one step
    that is not timed: there what the other kind left behind comes to its end, in caches and on the link. Sites begin
    every turn together: how far two have drifted apart that did not wait for each other is no cost of geo_accel's.
    """
    start = material.start if job.task == "finetune" else None
    first, twin = (first_model(setting, job.seed, start) for _ in range(2))
    models = {"geo": first, "bare": twin}
    raw = {kind: make_optimizer(model, setting, job.rate) for kind, model in models.items()}
    schedulers = {kind: make_scheduler(optimizer, setting, job.steps) for kind, optimizer in raw.items()}
    optimizers = {kind: accelerator.prepare(optimizer) for kind, optimizer in raw.items()}
    # The floor is a model that nothing is wrapped around.
    models["geo"] = accelerator.prepare(first)
    batches = Batches(material.of("train", TEXT), setting, setting.batch, job.seed, accelerator.process_index)
    turns = {kind: [] for kind in models}
    with GeoSync(accelerator=accelerator, model=models["geo"], optimizer=optimizers["geo"]) as geo:

        def train(kind: str, steps: int) -> float:
            began = perf_counter()
            for _ in range(steps):
                train_step(accelerator, models[kind], optimizers[kind], schedulers[kind], batches.next(), setting.clip)
                if kind == "geo":
                    geo.step()
                    print(f"step {geo.engine.step_count}", flush=True)
            return perf_counter() - began

        train("geo", WARMUP)
        longest = job.steps - WARMUP - 1
        while geo.engine.step_count + 1 + (turn := min(longest, geo.engine.plan.period)) <= job.steps:
            for kind in models:
                accelerator.wait_for_everyone()
                train(kind, 1)
                turns[kind].append(train(kind, turn) / turn)
    return {**turns, "summary": geo.summary(), "weights": digest(first)}
