# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Step times: methods take turns in one process, some steps each, again and again.

Machines have moods: a step takes 0.24 s for a while and 0.32 s for a while, whatever runs, so that of runs one after
the other not even the medians compare. Here whatever is compared has seen the same minute.
"""

import json
from contextlib import nullcontext
from copy import deepcopy
from time import perf_counter

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from benchmarks.kit.job import Job
from benchmarks.kit.material import Material
from benchmarks.kit.methods import bytes_sent, digest, trainee


def take_turns(job: Job, material: Material, accelerator: Accelerator, start: nn.Module) -> dict:
    """All turns; `start` becomes geo_accel's averaged model. Returns what this site saw:

    `turns`, by turn and method the mean seconds of a step; `sent`, by method bytes per step; `peak`, by method the
    most bytes of the accelerator's memory; `waited_s`, what geo_accel's steps waited; geo_accel's summary as `geo`.

    A part of a turn is a period of the plan, which holds all of its transfers (DDP: two steps, which are alike), after
    as many steps as the plan delays that are not timed: what comes from before ends there. Sites begin each part
    together: how far two have drifted apart that did not wait for each other is nobody's cost.
    """
    turns = job.turns
    batches = material.batches(accelerator, accelerator.process_index)
    twin = None if turns.shared else deepcopy(start)
    other = deepcopy(start) if turns.others else None
    one = {"geo": trainee(job, accelerator, start, batches)}
    one["none"] = one["geo"] if twin is None else trainee(job, accelerator, twin, batches, wrap="nothing")
    if other is not None:
        one["ddp"] = one["local_sgd"] = trainee(job, accelerator, other, batches, wrap="ddp")
    on_gpu = accelerator.device.type == "cuda"
    seen: list[dict[str, float]] = []
    sent: dict[str, list[float]] = {}
    peak: dict[str, int] = {}
    waited_s = []
    with one["geo"].sync("geo", job.config, 1) as geo:
        engine = geo.engine

        def part(method: str) -> float:
            """The mean seconds of a step."""
            period = min(max(engine.plan.period, turns.least_steps), turns.most_steps)
            warm, count = (engine.plan.delay if method == "geo" else 1), (2 if method == "ddp" else period)
            dist.barrier()
            running = (
                one[method].local(count) if method == "local_sgd" else nullcontext(geo if method == "geo" else None)
            )
            with running as sync:
                for step in range(max(1, warm) + count):
                    if step == max(1, warm):
                        if on_gpu:
                            torch.cuda.synchronize()
                            torch.cuda.reset_peak_memory_stats()
                        before, exposed, began = bytes_sent(), engine.figures.exposed_s, perf_counter()
                    one[method].step()
                    if sync is not None:
                        sync.step()
                    print("step", flush=True)
                if on_gpu:
                    torch.cuda.synchronize()
                    peak[method] = max(peak.get(method, 0), torch.cuda.max_memory_allocated())
                seconds = (perf_counter() - began) / count
                sent.setdefault(method, []).append((bytes_sent() - before) / count)
                if method == "geo":
                    waited_s.append((engine.figures.exposed_s - exposed) / count)
            engine.settle()
            return seconds

        while engine.plan is None:  # it measures and plans; a plan from a file is there at the first boundary
            one["geo"].step()
            geo.step()
        part("geo")  # links and threads settle
        sent.clear(), waited_s.clear()
        for turn in range(turns.count):
            seen.append({method: part(method) for method in turns.methods_of(turn)})
        plan = json.loads(engine.plan.to_json())
    return {
        "turns": seen,
        "sent": {method: sum(some) / len(some) for method, some in sent.items()},
        "peak": peak,
        "waited_s": sum(waited_s) / len(waited_s),
        "geo": geo.summary() | {"plan": plan},
        "weights": digest(start),
    }
