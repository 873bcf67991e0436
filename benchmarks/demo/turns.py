# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Step times: all methods take turns in one process, some steps each, again and again.

Machines have moods: a step takes 0.24 s for a while and 0.32 s for a while, whatever runs, so that of runs one after
the other not even the medians compare. Here whatever is compared has seen the same minute.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from time import perf_counter

from accelerate import Accelerator
from accelerate.local_sgd import LocalSGD
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from benchmarks.demo.setting import Setting
from benchmarks.demo.training import endless_batches, make_optimizer, train_step
from geo_accel import GeoSync

Turn = dict[str, float]
"""By method, the mean seconds of a step; DDP and LocalSGD, whose steps are long, do not take every turn."""


def methods_of(turn: int, every: int) -> list[str]:
    """Who takes part in turn number `turn`, in order: no communication and geo_accel change places each time."""
    pair = ["none", "geo"] if turn % 2 else ["geo", "none"]
    return [*pair, "local_sgd", "ddp"] if turn % every == 0 else pair


def take_turns(
    setting: Setting, accelerator: Accelerator, start: nn.Module, data: Dataset, plan: Path, turns: int
) -> list[Turn]:
    """`turns` turns of all methods, geo_accel by the `plan` in a file; `start` becomes geo_accel's averaged model.

    One method's part of a turn is a period of the plan, which holds all of its transfers (DDP: two steps, which are
    alike), after as many steps as the plan delays that are not timed: what comes from before ends there.
    Sites begin each part together: how far two have drifted apart that did not wait for each other is nobody's cost.
    """
    bare, other = deepcopy(start), deepcopy(start)
    batches = endless_batches(accelerator, data, setting)
    # The floor is a model that nothing is wrapped around. DDP's is not prepared: it has nothing to do with GeoSync.
    models = {
        "none": (bare, make_optimizer(bare, setting)),
        "geo": accelerator.prepare(start, make_optimizer(start, setting)),
    }
    models["ddp"] = models["local_sgd"] = (DistributedDataParallel(other), make_optimizer(other, setting))
    config = {"sync": {"schedule": "manual", "plan": str(plan)}}
    model, optimizer = models["geo"]
    seen: list[Turn] = []
    with GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=config) as geo:

        def step(method: str, after: Callable[[], object]) -> None:
            train_step(accelerator, *models[method], next(batches), setting.clip)
            after()

        def part(method: str) -> float:
            """The mean seconds of a step."""
            plan = geo.engine.plan
            warm, count = (plan.delay, plan.period) if method == "geo" else (1, plan.period)
            count = 2 if method == "ddp" else count
            around: AbstractContextManager = nullcontext()
            if method == "local_sgd":
                around = LocalSGD(accelerator=accelerator, model=models[method][0], local_sgd_steps=count)
            accelerator.wait_for_everyone()
            with around as local:
                after = {"geo": geo.step, "local_sgd": getattr(local, "step", None)}.get(method, lambda: None)
                for _ in range(max(1, warm)):
                    step(method, after)
                began = perf_counter()
                for _ in range(count):
                    step(method, after)
                seconds = (perf_counter() - began) / count
            geo.engine.settle()
            return seconds

        step("geo", geo.step)  # the plan is adopted at the first boundary
        for turn in range(turns):
            seen.append({method: part(method) for method in methods_of(turn, setting.others_every)})
            print(f"step {turn + 1}", flush=True)
    return seen
