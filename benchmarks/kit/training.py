# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Model, batches, learning rate, one step and its evaluation, shared by pretraining and all methods."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from benchmarks.kit.job import Setting

Batch = dict[str, torch.Tensor]


def fresh_model(setting: Setting, seed: int) -> GPT2LMHeadModel:
    """Random weights drawn from `seed`; the global generator is seeded by it."""
    logging.set_verbosity_error()  # GPT-2's own settings make it warn of themselves
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**setting.sizes, bos_token_id=0, eos_token_id=0, use_cache=False))


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    batches: Iterator[Batch],
    clip: float,
    watch: Callable[[torch.Tensor], bool] = lambda _: True,
) -> torch.Tensor:
    """One step of this site, without a word to the others but for what `model` itself does; returns the loss.

    `watch` sees loss and gradient norm, and leaves out the update by returning False.
    """
    loss = model(**next(batches)).loss
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), clip)
    if watch(torch.stack([loss.detach(), norm.detach()])):
        optimizer.step()
        scheduler.step()
    optimizer.zero_grad()
    return loss.detach()


def make_optimizer(model: nn.Module, setting: Setting, rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(),
        lr=rate,
        betas=(0.9, setting.beta2),
        weight_decay=setting.weight_decay,
        fused=setting.fused or None,
    )


def make_scheduler(
    optimizer: torch.optim.Optimizer, setting: Setting, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Advances once per step. Never prepared: accelerate would advance it once per site."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, setting, steps))


def rate_share(step: int, setting: Setting, steps: int) -> float:
    """The learning rate of a step, counted from 0, as a share of the largest: a line up, then a cosine down."""
    if step < setting.warmup:
        return (step + 1) / setting.warmup
    way = min(1.0, (step - setting.warmup) / max(1, steps - 1 - setting.warmup))
    return setting.final_share + (1 - setting.final_share) * (1 + math.cos(math.pi * way)) / 2


def random_places(
    texts: Sequence[torch.Tensor], setting: Setting, batch: int, seed: int, site: int
) -> Iterator[Batch]:
    """Examples at random places of random `texts`, flat tensors of tokens; equal for equal seeds and sites."""
    generator = torch.Generator().manual_seed(1000 * seed + site)
    while True:
        kinds = torch.randint(len(texts), (batch,), generator=generator)
        places = torch.rand(batch, generator=generator, dtype=torch.float64)
        rows = []
        for kind, place in zip(kinds.tolist(), places.tolist(), strict=True):
            start = int(place * (len(texts[kind]) - setting.block))
            rows.append(texts[kind][start : start + setting.block])
        yield as_batch(torch.stack(rows))


def random_tokens(setting: Setting, site: int) -> Iterator[Batch]:
    """Examples that mean nothing."""
    generator = torch.Generator().manual_seed(site)
    while True:
        yield as_batch(torch.randint(setting.vocabulary, (setting.batch, setting.block), generator=generator))


def as_batch(tokens: torch.Tensor) -> Batch:
    return {"input_ids": tokens.long(), "labels": tokens.long()}


def evaluation_blocks(texts: Sequence[torch.Tensor], setting: Setting) -> torch.Tensor:
    """Examples spread evenly over the held-out `texts`, equally many of each."""
    each = setting.evaluation_blocks // len(texts)
    rows = []
    for text in texts:
        for place in torch.linspace(0, len(text) - setting.block, each).long().tolist():
            rows.append(text[place : place + setting.block])
    return torch.stack(rows).long()


@torch.no_grad()
def held_out_loss(model: nn.Module, blocks: torch.Tensor) -> float:
    """Mean loss over `blocks`, nats per token; every site takes a share of them. Collective."""
    model.eval()
    device = next(model.parameters()).device
    mine = blocks[dist.get_rank() :: dist.get_world_size()].to(device)
    parts = [model(**as_batch(part)).loss.item() * len(part) for part in mine.split(32)]
    total = torch.tensor(sum(parts), dtype=torch.float64)
    dist.all_reduce(total)
    model.train()
    return total.item() / len(blocks)
