# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One step of training, the same for every method, and what it takes."""

from collections.abc import Iterator
from itertools import chain, repeat

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.demo.setting import Setting


class Blocks(Dataset):
    """Blocks of tokens as a causal language model takes them."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self._tokens = tokens.long()

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._tokens[index], "labels": self._tokens[index]}


def endless_batches(accelerator: Accelerator, data: Dataset, setting: Setting) -> Iterator[dict[str, torch.Tensor]]:
    """This site's batches, epoch after epoch. The loader is prepared here and now: GeoSync wants to see it."""
    loader = accelerator.prepare(DataLoader(data, batch_size=setting.batch, shuffle=True, drop_last=True))
    return chain.from_iterable(repeat(loader))


def make_optimizer(model: nn.Module, setting: Setting) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(), lr=setting.learning_rate, betas=(0.9, setting.beta2), weight_decay=setting.weight_decay
    )


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, torch.Tensor],
    clip: float,
) -> torch.Tensor:
    """Forward, backward, clipping and update; returns the loss."""
    loss = model(**batch).loss
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()
