# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The seam into what Trainer's training loop does over all ranks, unasked: it stays in the site while it trains.

Trainer averages the logged loss and adds up FLOP counts over all ranks whenever it logs, and loads DeepSpeed's
checkpoints from one place for all sites, by functions that `transformers.trainer` imports by name. They are replaced
while a plugged trainer trains. Tested against the version that `constraints.txt` pins; a version without them is
refused.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import transformers
from transformers import trainer as trainer_module

NAMES = ("nested_gather", "distributed_broadcast_scalars", "deepspeed_load_checkpoint")
"""Functions that Trainer calls."""


def gathered(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The group's tensors one after the other along their first dimension; of scalars a vector."""
    tensor = torch.atleast_1d(tensor.detach()).contiguous()
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor, group=group)
    return torch.cat(parts)


@contextmanager
def training_collectives_in_site(
    group: dist.ProcessGroup, has_begun: Callable[[], bool] = lambda: False
) -> Generator[None]:
    """Inside the block Trainer's logs gather over `group` only: each site logs its own training loss.

    DeepSpeed's checkpoints are loaded when training begins by the callback, each site its own; once it `has_begun`, as
    for the best model at the end, by Trainer, each site its own too.

    Raises ValueError where this version of transformers has no such functions.
    """
    missing = [name for name in NAMES if not hasattr(trainer_module, name)]
    if missing:
        raise ValueError(
            f"transformers {transformers.__version__} has no trainer.{missing[0]}: this geo_accel does not know how "
            "it gathers logs. Install a version in the range that geo_accel's setup names."
        )

    def nested_gather(tensors: torch.Tensor, parallel_mode: object, name: str | None = None) -> torch.Tensor:
        return gathered(tensors.reshape(-1), group)

    def distributed_broadcast_scalars(
        scalars: list[float], num_total_examples: int | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        return gathered(torch.tensor(scalars, dtype=torch.float32, device=device), group)

    def deepspeed_load_checkpoint(*args: object, **kwargs: object) -> None:
        if has_begun():
            originals["deepspeed_load_checkpoint"](*args, **kwargs)

    functions = (nested_gather, distributed_broadcast_scalars, deepspeed_load_checkpoint)
    replacements = dict(zip(NAMES, functions, strict=True))
    originals = {name: getattr(trainer_module, name) for name in NAMES}
    for name in NAMES:
        setattr(trainer_module, name, replacements[name])
    try:
        yield
    finally:
        for name in NAMES:
            setattr(trainer_module, name, originals[name])
