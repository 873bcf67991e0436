# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A model, and what keeps its replicas at the sites together."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.local_sgd import LocalSGD
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.kit.job import Job
from benchmarks.kit.training import Batch, make_optimizer, make_scheduler, train_step
from geo_accel import GeoSync


@dataclass(slots=True, kw_only=True)
class Trainee:
    """A model that one method trains."""

    bare: nn.Module
    step: Callable[..., torch.Tensor]
    """One step of this site; returns the loss. May be given `train_step`'s `watch`."""
    geo: Callable[..., GeoSync]
    """Makes the GeoSync of this model from a config."""
    local: Callable[[int], LocalSGD]
    """Makes the LocalSGD of this model, with so many steps between averages."""

    def sync(self, method: str, config: dict | None, period: int) -> AbstractContextManager:
        """What keeps the sites together; nothing for DDP, whose gradients do."""
        if method == "geo":
            return self.geo(config=config)
        return self.local(period) if method == "local_sgd" else nullcontext()


def trainee(
    job: Job, accelerator: Accelerator, bare: nn.Module, batches: Iterator[Batch], *, wrap: str = "prepare"
) -> Trainee:
    """`bare` and its optimizer, prepared by accelerate, or with `wrap` "ddp" inside torch's DDP only, which GeoSync
    does not see, or with "nothing" the floor: a model that nothing is wrapped around."""
    if job.zero is not None:
        return _deepspeed(job, bare, batches)
    optimizer = make_optimizer(bare, job.setting, job.rate)
    scheduler = make_scheduler(optimizer, job.setting, job.steps)
    if wrap == "prepare":
        model, optimizer = accelerator.prepare(bare, optimizer)
    else:
        model = bare.to(accelerator.device)
        model = DistributedDataParallel(model) if wrap == "ddp" else model
    return Trainee(
        bare=bare,
        step=partial(train_step, accelerator, model, optimizer, scheduler, batches, job.setting.clip),
        geo=partial(GeoSync, accelerator=accelerator, model=model, optimizer=optimizer),
        local=lambda period: LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=period),
    )


def _deepspeed(job: Job, bare: nn.Module, batches: Iterator[Batch]) -> Trainee:
    """A model that a DeepSpeed engine trains, with ZeRO of the job's stage: over all sites, or for `geo` in each."""
    import deepspeed

    from geo_accel import keep_deepspeed_in_site

    told = {
        "train_micro_batch_size_per_gpu": job.setting.batch,
        "gradient_clipping": job.setting.clip,
        "optimizer": {"type": "AdamW", "params": {"lr": job.rate, "torch_adam": True}},
        "zero_optimization": {"stage": job.zero},
    }
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    if job.method != "ddp":
        told["geo_accel"] = job.config or {}
        keep_deepspeed_in_site(told)
    engine, *_ = deepspeed.initialize(model=bare, config=told)

    def step(watch: object = None) -> torch.Tensor:
        loss = engine(**next(batches)).loss
        engine.backward(loss)
        engine.step()
        return loss.detach()

    return Trainee(
        bare=bare, step=step, geo=lambda config=None: GeoSync(model=engine, config=told), local=lambda period: None
    )


@torch.no_grad()
def average_over_sites(model: nn.Module) -> None:
    """Sets the parameters to their mean over all sites."""
    for parameter in model.parameters():
        dist.all_reduce(parameter)
        parameter.div_(dist.get_world_size())


def digest(model: nn.Module) -> str:
    """SHA-256 over all parameters: equal on all sites, or the sites do not hold one model."""
    total = hashlib.sha256()
    for parameter in model.parameters():
        total.update(parameter.detach().cpu().numpy().tobytes())
    return total.hexdigest()


def bytes_sent() -> int:
    """Bytes that have left this site's interface, headers included, as the kernel counts them."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == os.environ["GLOO_SOCKET_IFNAME"]:
            return int(counts.split()[8])
    raise ValueError(f"the network interface {os.environ['GLOO_SOCKET_IFNAME']} was not found.")
