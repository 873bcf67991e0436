# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What rounds carry: the weights that training changes."""

import logging
from collections.abc import Sequence

import torch
from torch import nn

from geo_accel.sync.local_decisions import refuse_local_decisions
from geo_accel.units import Unit, find_units

logger = logging.getLogger("geo_accel")


def trained_units(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer | None], says: bool) -> list[Unit]:
    """The model's units without parameters that none of `optimizers` changes; with `says` these are named once.

    All of them where no optimizer is known. Raises ValueError as `find_units` and `refuse_local_decisions` do.
    """
    refuse_local_decisions(model)
    units, left_out = split_by_optimizers(find_units(model), [one for one in optimizers if one is not None])
    if left_out and says:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        logger.warning(
            "geo_accel: %s%s would get gradients, but no optimizer has it: it is not trained, and nothing is "
            "sent for it. Make the optimizer when the model is complete (after resize_token_embeddings, for "
            "instance), or call requires_grad_(False) on what is not to be trained.",
            left_out[0],
            more,
        )
    return units


def split_by_optimizers(
    units: Sequence[Unit], optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[list[Unit], list[str]]:
    """The units with what any of `optimizers` changes, and the names of parameters that none does.

    All of `units` where the optimizers hold copies of their own instead of the model's parameters.
    """
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    trained, left_out = [], []
    for unit in units:
        kept = tuple(named for named in unit.parameters if id(named[1]) in held)
        left_out += [name for name, parameter in unit.parameters if id(parameter) not in held]
        if kept:
            trained.append(Unit(unit.name, kept))
    return (trained, left_out) if trained else (list(units), [])
