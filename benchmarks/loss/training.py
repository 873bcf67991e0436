# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Model, batches, learning rate and evaluation, shared by pretraining and all methods."""

import math
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from benchmarks.loss.setting import Setting


def fresh_model(setting: Setting, seed: int) -> GPT2LMHeadModel:
    """Random weights drawn from `seed`; the global generator is seeded by it."""
    logging.set_verbosity_error()  # GPT-2's own settings make it warn of themselves
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**setting.model_sizes()))


def first_model(setting: Setting, seed: int, start: Mapping[str, torch.Tensor] | None) -> GPT2LMHeadModel:
    """The model that a run begins with: the pretrained one, whose parameters by name are `start`, or a fresh one."""
    model = fresh_model(setting, seed)
    if start is not None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name])
    return model


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    tokens: torch.Tensor,
    clip: float,
) -> torch.Tensor:
    """One step of this site, without a word to the others but for what `model` itself does; returns the loss."""
    loss = model(input_ids=tokens, labels=tokens).loss
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    return loss.detach()


def make_optimizer(model: nn.Module, setting: Setting, rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, setting.beta2), weight_decay=setting.weight_decay, fused=True
    )


def make_scheduler(optimizer: torch.optim.Optimizer, setting: Setting, steps: int):
    """Advances once per step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, setting, steps))


def rate_share(step: int, setting: Setting, steps: int) -> float:
    """The learning rate of a step, counted from 0, as a share of the largest: a line up, then a cosine down."""
    if step < setting.warmup:
        return (step + 1) / setting.warmup
    way = min(1.0, (step - setting.warmup) / max(1, steps - 1 - setting.warmup))
    return setting.final_share + (1 - setting.final_share) * (1 + math.cos(math.pi * way)) / 2


class Batches:
    """Examples at random places of random texts; the same ones for the same seed and site, whatever the method."""

    def __init__(self, texts: Sequence[torch.Tensor], setting: Setting, batch: int, seed: int, site: int) -> None:
        """`texts` are flat tensors of tokens, each as likely as the others."""
        self._texts, self._batch, self._block = texts, batch, setting.block
        self._generator = torch.Generator().manual_seed(1000 * seed + site)

    def next(self) -> torch.Tensor:
        """Token ids, `batch` by `block`."""
        kinds = torch.randint(len(self._texts), (self._batch,), generator=self._generator)
        places = torch.rand(self._batch, generator=self._generator, dtype=torch.float64)
        rows = []
        for kind, place in zip(kinds.tolist(), places.tolist(), strict=True):
            text = self._texts[kind]
            start = int(place * (len(text) - self._block))
            rows.append(text[start : start + self._block])
        return torch.stack(rows).long()


def evaluation_blocks(texts: Sequence[torch.Tensor], setting: Setting) -> torch.Tensor:
    """Examples spread evenly over the held-out `texts`, equally many of each."""
    each = setting.evaluation_blocks // len(texts)
    rows = []
    for text in texts:
        for place in torch.linspace(0, len(text) - setting.block, each).long().tolist():
            rows.append(text[place : place + setting.block])
    return torch.stack(rows).long()


@torch.no_grad()
def summed_loss(model: nn.Module, blocks: torch.Tensor) -> float:
    """Sum over `blocks` of their mean losses, nats per token."""
    model.eval()
    total = sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in blocks.split(32))
    model.train()
    return float(total)
