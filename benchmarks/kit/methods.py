# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A model, its optimizer and its steps, and what keeps its replicas at the sites together."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.local_sgd import LocalSGD
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from benchmarks.kit.job import Job, Setting
from geo_accel import GeoSync
from geo_accel.lab.sites import WAN_INTERFACE

Batch = dict[str, torch.Tensor]


def fresh_model(setting: Setting, seed: int) -> GPT2LMHeadModel:
    """Random weights drawn from `seed`; the global generator is seeded by it."""
    logging.set_verbosity_error()  # GPT-2's own settings make it warn of themselves
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**setting.sizes, bos_token_id=0, eos_token_id=0, use_cache=False))


def make_optimizer(
    model: nn.Module, setting: Setting, rate: float, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, and its schedule, which advances once per step. Never prepare that one: accelerate would advance it once
    per site."""
    how = {"betas": (0.9, 0.95), "weight_decay": 0.1, "fused": setting.fused or None}
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, **how)

    def share(step: int) -> float:
        """Of `rate`, in a step counted from 0: a line up, then a cosine down."""
        if step < setting.warmup:
            return (step + 1) / setting.warmup
        way = min(1.0, (step - setting.warmup) / max(1, steps - 1 - setting.warmup))
        return setting.final_share + (1 - setting.final_share) * (1 + math.cos(math.pi * way)) / 2

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


class Trainee:
    """A model that one method trains."""

    def __init__(
        self, job: Job, accelerator: Accelerator, bare: nn.Module, batches: Iterator[Batch], wrap: str
    ) -> None:
        """`bare` and its optimizer, by `wrap`: "prepare", prepared by accelerate; "ddp", inside torch's DDP only,
        which GeoSync does not see; "nothing", the floor, a model that nothing is wrapped around."""
        self._accelerator, self._batches, self._clip = accelerator, batches, job.setting.clip
        self._optimizer, self._scheduler = make_optimizer(bare, job.setting, job.rate, job.steps)
        if wrap == "prepare":
            self._model, self._optimizer = accelerator.prepare(bare, self._optimizer)
        else:
            model = bare.to(accelerator.device)
            self._model = DistributedDataParallel(model) if wrap == "ddp" else model

    def step(self, watch: Callable[[torch.Tensor], bool] = lambda _: True) -> torch.Tensor:
        """One step of this site, without a word to the others but for what DDP does by itself; returns the loss.

        `watch` sees loss and gradient norm, and leaves out the update by returning False.
        """
        loss = self._model(**next(self._batches)).loss
        self._accelerator.backward(loss)
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), self._clip)
        if watch(torch.stack([loss.detach(), norm.detach()])):
            self._optimizer.step()
            self._scheduler.step()
        self._optimizer.zero_grad()
        return loss.detach()

    def sync(self, method: str, config: dict | None, period: int) -> AbstractContextManager:
        """What keeps the sites together; nothing for DDP, whose gradients do."""
        both = {"accelerator": self._accelerator, "model": self._model}
        if method == "geo":
            return GeoSync(**both, optimizer=self._optimizer, config=config)
        return LocalSGD(**both, local_sgd_steps=period) if method == "local_sgd" else nullcontext()


class ZeroTrainee(Trainee):
    """The same with a DeepSpeed engine and ZeRO of the job's stage: over all sites, or for geo_accel in each."""

    def __init__(self, job: Job, bare: nn.Module, batches: Iterator[Batch]) -> None:
        import deepspeed

        from geo_accel import keep_deepspeed_in_site

        self._told = {
            "train_micro_batch_size_per_gpu": job.setting.batch,
            "gradient_clipping": job.setting.clip,
            "optimizer": {"type": "AdamW", "params": {"lr": job.rate, "torch_adam": True}},
            "zero_optimization": {"stage": job.zero},
        }
        deepspeed.init_distributed(dist_backend="gloo", verbose=False)
        if job.method != "ddp":
            self._told["geo_accel"] = job.config or {}
            keep_deepspeed_in_site(self._told)
        self._engine, *_ = deepspeed.initialize(model=bare, config=self._told)
        self._batches = batches

    def step(self, watch: object = None) -> torch.Tensor:
        loss = self._engine(**next(self._batches)).loss
        self._engine.backward(loss)
        self._engine.step()
        return loss.detach()

    def sync(self, method: str, *_: object) -> AbstractContextManager:
        return GeoSync(model=self._engine, config=self._told) if method == "geo" else nullcontext()


def trainee_of(job: Job, accelerator: Accelerator, bare: nn.Module, batches: Iterator[Batch], wrap: str) -> Trainee:
    """Whatever trains the job's model."""
    if job.zero is not None:
        return ZeroTrainee(job, bare, batches)
    return Trainee(job, accelerator, bare, batches, wrap)


@torch.no_grad()
def held_out_loss(model: nn.Module, blocks: torch.Tensor) -> float:
    """Mean loss over `blocks`, nats per token; every site takes a share of them. Collective."""
    model.eval()
    mine = blocks[dist.get_rank() :: dist.get_world_size()].to(next(model.parameters()).device)
    parts = [model(input_ids=part, labels=part).loss.item() * len(part) for part in mine.split(32)]
    total = torch.tensor(sum(parts), dtype=torch.float64)
    dist.all_reduce(total)
    model.train()
    return total.item() / len(blocks)


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
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    counts = {name.strip(): numbers.split() for name, _, numbers in (line.partition(":") for line in lines)}
    return int(counts[WAN_INTERFACE if WAN_INTERFACE in counts else os.environ["GLOO_SOCKET_IFNAME"]][8])
