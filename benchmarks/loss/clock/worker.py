# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site of one job: trains, marks every step boundary, evaluates the average of the sites' models."""

import argparse
import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch
from accelerate import Accelerator

from benchmarks.demo.worker import Recording, digest
from benchmarks.loss.clock.jobs import TEXT, Job
from benchmarks.loss.clock.turns import take_turns
from benchmarks.loss.material import Material
from benchmarks.loss.setting import Setting
from benchmarks.loss.training import (
    Batches,
    evaluation_blocks,
    first_model,
    make_optimizer,
    make_scheduler,
    summed_loss,
    train_step,
)
from geo_accel import GeoSync


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="JSON: material, setting and job")
    parser.add_argument("--out", type=Path, required=True, help="the folder for rank-R.json")
    options = parser.parse_args(arguments)
    told = json.loads(options.job.read_text())
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    job, setting, material = Job(**told["job"]), Setting(**told["setting"]), Material.read(Path(told["material"]))
    run = take_turns if job.method == "turns" else train
    recording = run(job, setting, material, accelerator)
    (options.out / f"rank-{accelerator.process_index}.json").write_text(json.dumps(recording))
    accelerator.end_training()
    return 0


def train(job: Job, setting: Setting, material: Material, accelerator: Accelerator) -> dict:
    """The demo's recording, and `ended`: `perf_counter` after the last average, when the model is there."""
    bare = first_model(setting, job.seed, material.start if job.task == "finetune" else None)
    batches = Batches(material.of("train", TEXT), setting, setting.batch, job.seed, accelerator.process_index)
    raw = make_optimizer(bare, setting, job.rate)
    scheduler = make_scheduler(raw, setting, job.steps)
    model, optimizer = accelerator.prepare(bare, raw)
    sync = nullcontext()
    if job.method == "geo":
        sync = GeoSync(accelerator=accelerator, model=model, optimizer=optimizer)
    recording = Recording()
    accelerator.wait_for_everyone()
    recording.mark()
    with sync as geo:
        for step in range(job.steps):
            loss = train_step(accelerator, model, optimizer, scheduler, batches.next(), setting.clip)
            if geo is not None:
                geo.step()
            recording.mark()
            recording.losses.append(loss.item())
            print(f"step {step + 1}", flush=True)
    ended = perf_counter()
    if job.method == "geo":
        recording.geo = {**sync.summary(), "adopted": sync.engine.adopted}
    recording.weights = digest(bare)
    held_out = evaluation_blocks(material.of("held_out", TEXT), setting)
    recording.eval_loss = summed_loss(bare, held_out) / len(held_out)
    return {**asdict(recording), "ended": ended}


if __name__ == "__main__":
    sys.exit(main())
