# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A model's units: what is synchronised together, in backward order."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Unit:
    """One layer: its unique trainable parameters, by full name."""

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]

    @property
    def numel(self) -> int:
        return sum(numel(parameter) for _, parameter in self.parameters)


def numel(parameter: nn.Parameter) -> int:
    """Elements of the whole parameter, of which ZeRO-3 leaves nothing in place and tells the size in `ds_numel`."""
    return getattr(parameter, "ds_numel", parameter.numel())


def find_units(model: nn.Module) -> list[Unit]:
    """The model's units in backward order (the output side first).

    Elements of a `ModuleList` or `Sequential` are units (transformer blocks, residual blocks); modules outside of
    one (embeddings, final norms, heads) are descended to their leaves. Frozen parameters and parameter-free modules
    never appear. A tied weight belongs to the first module that registers it, which for a language model is the
    embedding: its last use in backward.

    Raises ValueError for a model without trainable parameters, or with parameters that are sharded or not
    floating-point.
    """
    seen: set[int] = set()
    units: list[Unit] = []

    def collect(name: str, module: nn.Module, recurse: bool) -> None:
        parameters = []
        for parameter_name, parameter in module.named_parameters(prefix=name, recurse=recurse):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                parameters.append((parameter_name, parameter))
        if parameters:
            units.append(Unit(name=name or type(module).__name__, parameters=tuple(parameters)))

    def descend(name: str, module: nn.Module) -> None:
        collect(name, module, recurse=False)
        for child_name, child in module.named_children():
            path = f"{name}.{child_name}" if name else child_name
            if isinstance(module, (nn.ModuleList, nn.Sequential)) and not isinstance(
                child, (nn.ModuleList, nn.Sequential)
            ):
                collect(path, child, recurse=True)
            else:
                descend(path, child)

    descend("", model)
    if not units:
        raise ValueError(
            "the model has no trainable parameters: nothing to synchronise (is everything frozen, or was "
            "geo_accel given the wrong model?)."
        )
    for unit in units:
        for name, parameter in unit.parameters:
            if type(parameter.data) is not torch.Tensor or not parameter.is_floating_point():
                raise ValueError(
                    f"parameter {name} is a {type(parameter.data).__name__} of {parameter.dtype}: only whole "
                    "(unsharded) floating-point parameters can be synchronised."
                )
    return units[::-1]


def checksums(units: Sequence[Unit]) -> dict[str, int]:
    """CRC-32 of each unit's parameter bytes, to find units that differ between sites."""
    return {unit.name: checksum(parameter.detach() for _, parameter in unit.parameters) for unit in units}


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """CRC-32 of the tensors' bytes, one after the other."""
    value = 0
    for tensor in tensors:
        flat = tensor.cpu().contiguous().view(-1).view(torch.uint8)
        value = zlib.crc32(flat.numpy().data, value)
    return value
