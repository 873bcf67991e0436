# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a model's state holds besides the weights that rounds carry.

Buffers (BatchNorm statistics and counters), and parameters that nobody trains or that the script moves by hand (an EMA
teacher, a momentum encoder). Rounds know nothing of them, so a flush looks at all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from geo_accel.units import Unit, checksum

# Of frozen weights in a model that trains little (adapters), so many values of each tensor are looked at. Whoever
# moves a copy by hand moves all of it, and reading a large model takes longer than flushing its adapters.
SAMPLED = 4096
_WORTH_READING = 4
"""Frozen weights up to so many times what is trained are read whole."""

LACKING = -1
"""The fingerprint of what this site does not have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """Something that must be the same on all sites after a flush."""

    name: str
    tensors: tuple[torch.Tensor, ...]
    """Empty where this site has none (yet)."""
    sampled: bool = False
    """Whether a sample stands for all values."""
    is_buffer: bool = False
    """Whether DDP lets each rank of a site have its own."""
    takes_first: bool = False
    """Whether a mean of it would be nonsense; then the first site's counts, as for all that is not floating-point."""
    fixed: bool = False
    """Whether it is made anew whenever somebody asks for it, so that nothing can be written to it."""
    forget: Callable[[], None] | None = None
    """Drops it, which is what all sites do where one has none."""

    @property
    def averaged(self) -> bool:
        return not self.takes_first and all(t.is_floating_point() or t.is_complex() for t in self.tensors)

    @property
    def shape(self) -> list[object]:
        """What has to be the same on all sites before values can be compared."""
        if self.forget is not None:  # of the same kind everywhere, where it is there
            return []
        return [[list(tensor.shape), str(tensor.dtype)] for tensor in self.tensors]

    def fingerprint(self) -> int:
        """CRC-32 of its bytes, or of those of a sample; LACKING where it has none."""
        return (
            checksum(_sample(tensor) if self.sampled else tensor for tensor in self.tensors)
            if self.tensors
            else LACKING
        )


def rest_of(model: nn.Module, units: Sequence[Unit]) -> list[Entry]:
    """The tensors of the model's state dict that are in none of `units`, in its order, each once.

    Buffers outside of the state dict are constants that every site computes for itself. Tensors of kinds of their own
    (quantised, partitioned by ZeRO-3) are left out: what a rank holds of them is not the tensor.
    """
    carried = {id(parameter) for unit in units for _, parameter in unit.parameters}
    parameters, buffers = {id(p) for p in model.parameters()}, {id(b) for b in model.buffers()}
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and id(tensor) not in carried and _is_plain(tensor):
            found.setdefault(id(tensor), (name, tensor))
    frozen = sum(tensor.nbytes for key, (_, tensor) in found.items() if key in parameters)
    trained = sum(parameter.nbytes for unit in units for _, parameter in unit.parameters)
    state = {name for name, _ in found.values()} | {name for unit in units for name, _ in unit.parameters}
    return [
        Entry(
            name=name,
            tensors=(tensor,),
            sampled=key in parameters and frozen > _WORTH_READING * trained,
            is_buffer=key in buffers,
            takes_first=_is_mask(name, state),
            fixed=key not in parameters and key not in buffers,
        )
        for key, (name, tensor) in found.items()
    ]


def untrained_checksums(model: nn.Module, units: Sequence[Unit]) -> Mapping[str, int]:
    """CRC-32 by name of a sample of each parameter in no unit, to find those that differ between sites."""
    carried = {id(parameter) for unit in units for _, parameter in unit.parameters}
    return {
        name: checksum([_sample(parameter)])
        for name, parameter in model.named_parameters()
        if id(parameter) not in carried and _is_plain(parameter)
    }


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor.data) is torch.Tensor
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and not hasattr(tensor, "ds_tensor")
    )


def _is_mask(name: str, state: set[str]) -> bool:
    """Whether it is the mask of `torch.nn.utils.prune`, which says what is cut: one half of a cut is nonsense."""
    return name.endswith("_mask") and name.removesuffix("_mask") + "_orig" in state


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)]
