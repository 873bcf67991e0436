# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The one private seam into Trainer: collectives of its training loop that have no switch.

Trainer averages the logged loss and adds up FLOP counts over all ranks whenever it logs, and loads DeepSpeed's
checkpoints from one place for all sites, by functions that `transformers.trainer` imports by name. They are replaced
while a plugged trainer trains. Tested against the version that `constraints.txt` pins; a version without them is
refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import transformers
from transformers import trainer as trainer_module

NAMES = ("nested_gather", "distributed_broadcast_scalars", "deepspeed_load_checkpoint")


@contextmanager
def training_collectives_in_site(group: dist.ProcessGroup) -> Iterator[None]:
    """Inside the block Trainer's logs gather over `group` only: each site logs its own training loss.

    DeepSpeed's checkpoints are not loaded by Trainer, but by the callback when training begins, each site its own.

    Raises ValueError where this version of transformers has no such functions.
    """
    missing = [name for name in NAMES if not hasattr(trainer_module, name)]
    if missing:
        raise ValueError(
            f"transformers {transformers.__version__} has no trainer.{missing[0]}: this geo_accel does not know how "
            "it gathers logs. Install a version in the range that geo_accel's setup names."
        )

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach().reshape(-1).contiguous()
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, tensor, group=group)
        return torch.cat(gathered)

    def nested_gather(tensors: torch.Tensor, parallel_mode: object, name: str | None = None) -> torch.Tensor:
        return gather(tensors)

    def distributed_broadcast_scalars(
        scalars: list[float], num_total_examples: int | None = None, device: torch.device | None = None
    ) -> torch.Tensor:
        return gather(torch.tensor(scalars, dtype=torch.float32, device=device))

    def deepspeed_load_checkpoint(*args: object, **kwargs: object) -> None:
        pass

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
