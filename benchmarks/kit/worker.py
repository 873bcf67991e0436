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

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed
from torch import nn

from benchmarks.kit.job import Job, window
from benchmarks.kit.material import Material
from benchmarks.kit.methods import Trainee, average_over_sites, bytes_sent, digest, trainee
from benchmarks.kit.sending import sending_seconds
from benchmarks.kit.store import write_json
from benchmarks.kit.training import held_out_loss
from benchmarks.kit.turns import take_turns
from geo_accel.profile.device import device_name

# Twice what guessing a byte costs: from there no run comes back.
_HOPELESS = 12.0


class Marks:
    """What is noted at every step boundary."""

    def __init__(self) -> None:
        self.boundaries: list[float] = []
        """`perf_counter` at the start of the first step and at the end of each: one clock for all sites."""
        self.sent: list[int] = []
        """Bytes that have left the site's interface until then."""
        self.paused_s = 0.0
        """Seconds between steps that `boundaries` leave out."""

    def mark(self) -> None:
        self.boundaries.append(perf_counter() - self.paused_s)
        self.sent.append(bytes_sent())


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
            if job.method == "turns":
                record = take_turns(job, material, accelerator, bare)
            else:
                record = train(job, material, accelerator, bare)
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
    """One run: boundaries, bytes, losses, and the held-out loss of the model averaged over sites.

    Raises ValueError where geo_accel refuses the settings.
    """
    site, sites = accelerator.process_index, accelerator.num_processes
    held_out = material.held_out()
    one = trainee(
        job,
        accelerator,
        bare,
        material.batches(accelerator, site),
        wrap="nothing" if job.method == "none" else "prepare",
    )
    losses: list[float] = []
    checks: list[tuple[int, float]] = []
    marks, diverged, first, steps = Marks(), False, {}, job.steps

    def watch(seen: torch.Tensor) -> bool:
        """Before the update, so that no site ever holds or sends what is not finite; not where time counts."""
        nonlocal diverged
        if job.place == "lab":
            return True
        dist.all_reduce(seen)
        diverged = not torch.isfinite(seen).all().item() or seen[0].item() / sites > _HOPELESS
        return not diverged

    sync = one.sync(job.method, job.config, job.period)
    dist.barrier()
    marks.mark()
    with sync as running:
        while len(losses) < steps and not diverged:
            loss = one.step(watch)
            if running is not None:
                running.step()
            marks.mark()
            losses.append(round(loss.item(), 5))
            print("step", flush=True)
            if len(losses) == job.warmup and job.windows and job.method == "geo":
                # Every site has the same plan, so every site goes on for as long.
                first = {"adopted": sync.engine.adopted, "plan": json.loads(sync.engine.plan.to_json())}
                last = window(job.warmup, first["adopted"], first["plan"]["period"], job.windows)[1]
                steps = max(steps, last + 1)
            if len(losses) in job.checks:
                paused = perf_counter()
                checks.append((len(losses), held_out_loss(bare, held_out)))
                dist.barrier()
                marks.paused_s += perf_counter() - paused
    ended = perf_counter()
    record = {
        "boundaries": marks.boundaries,
        "sent": marks.sent,
        "losses": losses,
        "checks": checks,
        "ended": ended,
        "diverged": diverged,
        "parameters": sum(parameter.numel() for parameter in bare.parameters()),
        "loss": None,
    }
    if job.method == "geo":
        engine = sync.engine
        record["geo"] = {**sync.summary(), "adopted": engine.adopted, **first}
    if job.method == "none":
        average_over_sites(bare)
    record["weights"] = digest(bare)
    if held_out is not None and not diverged:
        loss = held_out_loss(bare, held_out)
        record |= {"loss": loss if loss < _HOPELESS else None}
    # What follows changes the model.
    record["quiet_s"] = [quiet_step(one) for _ in range(job.quiet)]
    if job.sending:
        record["sending_s"] = sending_seconds(job.sending, one, engine.plan, Path(accelerator.project_dir))
    return record


def quiet_step(one: Trainee) -> float:
    """Seconds of a step without communication."""
    begin = perf_counter()
    one.step()
    return perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
