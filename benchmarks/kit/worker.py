# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site: trains the jobs of a batch one after another and writes what it saw of each.

The runner starts it once per site, with a JSON file: store, jobs, and where the model of the only job is to go. Prints
"step" after every step.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed
from torch import nn

from benchmarks.kit.job import Job, window
from benchmarks.kit.material import Material
from benchmarks.kit.methods import Batch, average_over_sites, bytes_sent, digest, held_out_loss, trainee_of
from benchmarks.kit.store import write_json

# Twice what guessing a byte costs: from there no run comes back.
_HOPELESS = 12.0


def main() -> int:
    batch_file = Path(sys.argv[1])
    batch = json.loads(batch_file.read_text())
    jobs = [Job.read(fields) for fields in batch["jobs"]]
    torch.set_num_threads(1)
    accelerator = Accelerator(
        cpu=jobs[0].place != "gpu",
        # Where geo_accel would save the state of a site that lost the other.
        project_dir=str(batch_file.parent),
        mixed_precision=jobs[0].setting.precision,
        # All sites may share one accelerator, which NCCL refuses.
        kwargs_handlers=[] if jobs[0].apart else [InitProcessGroupKwargs(backend="gloo")],
    )
    # In a job of its own a site is no rank among others.
    site = int(os.environ["GEO_ACCEL_SITE"].removeprefix("site")) if jobs[0].apart else accelerator.process_index
    for job in jobs:
        set_seed(job.seed)
        material = Material(job, Path(batch["store"]))
        bare = material.model()
        batches = material.batches(accelerator, site)
        record = (take_turns if job.method == "turns" else train)(job, material, accelerator, bare, batches)
        write_json(batch_file.parent / f"{job.key}.{site}.json", record)
        if batch["save"] and site == 0:
            bare.save_pretrained(batch["save"])
        del bare, material
        accelerator.free_memory()
        gc.collect()
    accelerator.end_training()
    return 0


def train(job: Job, material: Material, accelerator: Accelerator, bare: nn.Module, batches: Iterator[Batch]) -> dict:
    """One run. `boundaries` are `perf_counter` at the start of the first step and the end of each, one clock for all
    sites; `sent` the bytes that have left the site's interface until then; `loss` is the held-out loss of the model
    averaged over sites, nats per token, None where training diverged or no loss counts.
    """
    held_out = material.held_out()
    one = trainee_of(job, accelerator, bare, batches, "nothing" if job.method == "none" else "prepare")
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
    record = {**seen, "ended": perf_counter(), "parameters": bare.num_parameters(), "loss": None}
    if job.method == "geo":
        record["geo"] = {**sync.summary(), "adopted": sync.engine.adopted, **first}
    if job.method == "none":
        average_over_sites(bare)
    record["weights"] = digest(bare)
    if held_out is not None and not diverged:
        loss = held_out_loss(bare, held_out)
        record["loss"] = loss if loss < _HOPELESS else None
    return record


def take_turns(job: Job, _: Material, accelerator: Accelerator, start: nn.Module, batches: Iterator[Batch]) -> dict:
    """One run in which methods take turns, again and again: machines have moods, and a step takes 0.24 s for a while
    and 0.32 s for a while, whatever runs. `start` becomes geo_accel's averaged model. Returns what this site saw:

    `turns`, by turn and method what `part` says; geo_accel's summary as `geo`.

    A part of a turn is a period of the plan, which holds all of its transfers (of a longer one 60 steps; of DDP two,
    which are alike), after as many steps as the plan delays that are not timed: what comes from before ends there.
    Sites begin each part together: how far two have drifted apart that did not wait for each other is nobody's cost.
    """
    one = {} if job.shared else {"none": trainee_of(job, accelerator, deepcopy(start), batches, "nothing")}
    if job.others:
        one["ddp"] = one["local_sgd"] = trainee_of(job, accelerator, deepcopy(start), batches, "ddp")
    one["geo"] = trainee_of(job, accelerator, start, batches, "prepare")
    one.setdefault("none", one["geo"])
    on_gpu = accelerator.device.type == "cuda"
    with one["geo"].sync("geo", job.config, 1) as geo:
        engine = geo.engine

        def part(method: str) -> dict[str, float]:
            """By step its seconds, bytes sent and seconds that geo_accel waited; the most bytes of the accelerator's
            memory."""
            period = min(max(engine.plan.period, job.least_steps), 60)
            warm, count = (max(1, engine.plan.delay) if method == "geo" else 1), (2 if method == "ddp" else period)
            running = nullcontext(geo) if method == "geo" else one[method].sync(method, None, count)
            engine.control.gather("who takes turns", method)
            with running as sync:
                for step in range(warm + count):
                    if step == warm:
                        if on_gpu:
                            torch.cuda.synchronize()
                            torch.cuda.reset_peak_memory_stats()
                        sent, waited_s, began = bytes_sent(), engine.figures.exposed_s, perf_counter()
                    one[method].step()
                    if sync is not None:
                        sync.step()
                    print("step", flush=True)
                if on_gpu:
                    torch.cuda.synchronize()
                sums = {"step_s": perf_counter() - began, "sent": bytes_sent() - sent}
                sums["waited_s"] = engine.figures.exposed_s - waited_s
            engine.settle()
            peak = torch.cuda.max_memory_allocated() if on_gpu else 0
            return {name: value / count for name, value in sums.items()} | {"peak": peak}

        while engine.plan is None:  # it measures and plans; a plan from a file is there at the first boundary
            one["geo"].step()
            geo.step()
        part("geo")  # links and threads settle
        seen = [{method: part(method) for method in job.methods_of(turn)} for turn in range(job.turns)]
        plan = json.loads(engine.plan.to_json())
    return {"turns": seen, "geo": geo.summary() | {"plan": plan}, "weights": digest(start)}


if __name__ == "__main__":
    sys.exit(main())
