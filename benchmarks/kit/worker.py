# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site: trains the jobs of a batch one after another and writes what it saw of each.

Started by the runner, once per site. Prints "step" after every step and "job done" after every job.
"""

import argparse
import gc
import json
import sys
from pathlib import Path
from time import perf_counter
from timeit import timeit

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed
from torch import nn

from benchmarks.kit.job import Job, window
from benchmarks.kit.material import Material
from benchmarks.kit.methods import average_over_sites, bytes_sent, digest, trainee
from benchmarks.kit.sending import sending_seconds
from benchmarks.kit.store import write_json
from benchmarks.kit.training import held_out_loss
from benchmarks.kit.turns import take_turns
from geo_accel.profile.device import device_name

# Twice what guessing a byte costs: from there no run comes back.
_HOPELESS = 12.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=Path, required=True, help="JSON: store, and jobs by key")
    parser.add_argument("--save", type=Path, help="where the trained model of the only job goes")
    options = parser.parse_args(arguments)
    batch = json.loads(options.batch.read_text())
    jobs = {key: Job.read(fields) for key, fields in batch["jobs"].items()}
    first = next(iter(jobs.values()))
    torch.set_num_threads(1)
    accelerator = Accelerator(
        cpu=first.place != "gpu",
        # Where geo_accel would save the state of a site that lost the other.
        project_dir=str(options.batch.parent),
        mixed_precision=first.setting.precision,
        # All sites may share one accelerator, which NCCL refuses.
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")],
    )
    for key, job in jobs.items():
        set_seed(job.seed)
        material = Material(job, Path(batch["store"]))
        bare = material.model()
        try:
            record = (take_turns if job.method == "turns" else train)(job, material, accelerator, bare)
        except ValueError as error:  # GeoSync's: every site refuses what one refuses
            record = {"refused": " ".join(str(error).split())}
        record |= {"device": device_name(accelerator.device)}
        write_json(options.batch.parent / f"{key}.{accelerator.process_index}.json", record)
        if options.save is not None and accelerator.is_main_process:
            bare.save_pretrained(options.save)
        del bare, material
        accelerator.free_memory()
        gc.collect()
        print("job done", flush=True)
    accelerator.end_training()
    return 0


def train(job: Job, material: Material, accelerator: Accelerator, bare: nn.Module) -> dict:
    """One run. `boundaries` are `perf_counter` at the start of the first step and the end of each, one clock for all
    sites; `sent` the bytes that have left the site's interface until then; `loss` is the held-out loss of the model
    averaged over sites, nats per token, None where training diverged or no loss counts.

    Raises ValueError where geo_accel refuses the settings.
    """
    held_out, batches = material.held_out(), material.batches(accelerator, accelerator.process_index)
    one = trainee(job, accelerator, bare, batches, wrap="nothing" if job.method == "none" else "prepare")
    seen = {name: [] for name in ("boundaries", "sent", "losses", "checks")}
    diverged, first, steps, paused_s = False, {}, job.steps, 0.0

    def mark() -> None:
        seen["boundaries"].append(perf_counter() - paused_s)
        seen["sent"].append(bytes_sent())

    def watch(told: torch.Tensor) -> bool:
        """Before the update, so that no site ever holds or sends what is not finite; not where time counts."""
        nonlocal diverged
        if job.place != "lab":
            dist.all_reduce(told)
            diverged = not torch.isfinite(told).all().item() or told[0].item() / job.sites > _HOPELESS
        return not diverged

    sync = one.sync(job.method, job.config, job.period)
    dist.barrier()
    mark()
    with sync as running:
        while (done := len(seen["losses"])) < steps and not diverged:
            loss = one.step(watch)
            if running is not None:
                running.step()
            mark()
            seen["losses"].append(round(loss.item(), 5))
            print("step", flush=True)
            if done + 1 == job.warmup and job.windows and job.method == "geo":
                # Every site has the same plan, so every site goes on for as long.
                first = {"adopted": sync.engine.adopted, "plan": json.loads(sync.engine.plan.to_json())}
                steps = max(steps, window(job.warmup, first["adopted"], first["plan"]["period"], job.windows)[1] + 1)
            if done + 1 in job.checks:  # outside of the steps' time
                paused = perf_counter()
                seen["checks"].append((done + 1, held_out_loss(bare, held_out)))
                dist.barrier()
                paused_s += perf_counter() - paused
    parameters = sum(parameter.numel() for parameter in bare.parameters())
    record = {**seen, "ended": perf_counter(), "parameters": parameters, "loss": None}
    if job.method == "geo":
        record["geo"] = {**sync.summary(), "adopted": sync.engine.adopted, **first}
    if job.method == "none":
        average_over_sites(bare)
    record["weights"] = digest(bare)
    if held_out is not None and not diverged:
        loss = held_out_loss(bare, held_out)
        record["loss"] = loss if loss < _HOPELESS else None
    # What follows changes the model.
    record["quiet_s"] = [timeit(one.step, number=1) for _ in range(job.quiet)]
    if job.sending:
        record["sending_s"] = sending_seconds(job.sending, one, sync.engine.plan, Path(accelerator.project_dir))
    return record


if __name__ == "__main__":
    sys.exit(main())
