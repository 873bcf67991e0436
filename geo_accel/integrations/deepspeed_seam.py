# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The seam into DeepSpeed: where each ZeRO stage keeps masters, and how they are published.

It tells where masters lie parameter by parameter, in forms that differ between stages. They are read here and nowhere
else. Versions outside `TESTED` are refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.pipe.module import PipelineModule
from packaging.version import Version
from torch import nn

from geo_accel.masters import CopiedMasters, Masters, PlainMasters, Run, Selection, Shard, ShardedMasters
from geo_accel.topology import Topology
from geo_accel.transport.store import ControlPlane
from geo_accel.units import Unit, numel

TESTED = ("0.19.8", "0.20")
"""The first version that is supported, and the first that is not."""

NO_PIPELINE = "DeepSpeed's pipeline parallelism is not supported across sites; use ZeRO 0 to 3."
Partitioned = Any
"""A parameter, with what ZeRO has attached to it and its type does not know."""


def require_version() -> None:
    """Raises ValueError for a DeepSpeed that this file was not tested with."""
    first, end = TESTED
    if not Version(first) <= Version(Version(deepspeed.__version__).base_version) < Version(end):
        raise ValueError(
            f"DeepSpeed {deepspeed.__version__} is not supported: geo_accel was tested with {first} up to, not "
            f"including, {end}. Install one of those."
        )


def refuse_pipelines() -> None:
    """From now on a pipeline is refused in our words; DeepSpeed would call the site an invalid grid."""

    def refuse(self: PipelineModule, *_: object, **__: object) -> None:
        raise ValueError(NO_PIPELINE)

    PipelineModule.__init__ = refuse


def bare(engine: DeepSpeedEngine) -> nn.Module:
    """The model inside, whose attributes the engine shows as its own."""
    module = engine.module
    assert isinstance(module, nn.Module)
    return module


def was_loaded(model: DeepSpeedEngine) -> bool:
    """Whether `load_checkpoint` has read anything into it."""
    return model.loaded_checkpoint_dp_world_size is not None


def masters_of(
    engine: DeepSpeedEngine,
    units: Sequence[Unit],
    topology: Topology,
    control: ControlPlane,
    site_group: dist.ProcessGroup | None,
) -> Masters:
    """Where a DeepSpeed engine keeps its fp32 masters. `site_group`: the ranks of the site. Collective.

    Raises ValueError for optimizers that keep none or keep them out of reach.
    """
    optimizer, parameters = engine.optimizer, [parameter for unit in units for _, parameter in unit.parameters]
    if hasattr(parameters[0], "ds_id"):
        if getattr(optimizer, "swap_optimizer", False):
            raise ValueError("zero_optimization.offload_optimizer to NVMe is not supported; offload to the CPU.")
        return _zero_3(optimizer, units, topology)
    # Every parameter has it, with None where another rank holds the master: all ranks come to the same answer.
    if hasattr(parameters[0], "_hp_mapping"):
        assert site_group is not None  # DeepSpeed has process groups
        return _zero_1_and_2(units, topology, control, site_group)
    copies = _copies(optimizer)
    if copies:
        return CopiedMasters(units, topology, copies)
    return PlainMasters(units, topology)


def _copies(optimizer: Any) -> dict[nn.Parameter, torch.Tensor]:
    """Without ZeRO, fp16 and bf16: whole masters beside the parameters."""
    if hasattr(optimizer, "fp32_groups_flat"):
        masters = [
            part
            for flat, group in zip(optimizer.fp32_groups_flat, optimizer.fp16_groups, strict=True)
            for part in flat.detach().split([parameter.numel() for parameter in group])
        ]
    elif hasattr(optimizer, "fp32_groups"):
        masters = [master for group in optimizer.fp32_groups for master in group]
    else:
        return {}
    parameters = [parameter for group in optimizer.fp16_groups for parameter in group]
    return dict(zip(parameters, masters, strict=True))


def _zero_1_and_2(
    units: Sequence[Unit], topology: Topology, control: ControlPlane, group: dist.ProcessGroup
) -> ShardedMasters:
    """Fragments of parameters, wherever the ends of the ranks' partitions cut them."""
    named: dict[str, Partitioned] = {name: parameter for unit in units for name, parameter in unit.parameters}
    mine, masters = {}, {}
    for name, parameter in named.items():
        mapping = parameter._hp_mapping
        if mapping is not None:
            address = mapping.lp_fragment_address
            mine[name] = [address.start, address.start + address.numel]
            masters[parameter] = mapping.hp_fragment
    answers = control.gather("comparing partitions", mine)
    shards = [{named[name]: Shard(*ends) for name, ends in answers[rank].items()} for rank in topology.site.ranks]

    def publish(selection: Selection, values: Callable[[Run], torch.Tensor]) -> None:
        """Each rank rounds what it holds, and the ranks of a site tell one another."""
        for run in selection.mine:
            stretch_of(run).copy_(values(run))
        if len(topology.site.ranks) == 1:
            return
        lengths = [sum(run.stop - run.start for run in runs) for runs in selection.site]
        some = next(iter(named.values()))
        rows = some.new_empty(len(lengths), max(lengths))
        mine, place = some.new_empty(max(lengths)), 0
        for run in selection.mine:
            mine[place : place + run.stop - run.start].copy_(stretch_of(run))
            place += run.stop - run.start
        dist.all_gather(list(rows.unbind(0)), mine, group=group)
        for rank, runs in enumerate(selection.site):
            place = 0
            for run in runs:
                if rank != topology.local_index:
                    stretch_of(run).copy_(rows[rank, place : place + run.stop - run.start])
                place += run.stop - run.start

    return ShardedMasters(units, topology, shards, masters, publish)


def stretch_of(run: Run) -> torch.Tensor:
    """What the model computes with, flat."""
    return run.parameter.detach().view(-1)[run.start : run.stop]


def _zero_3(optimizer: Any, units: Sequence[Unit], topology: Topology) -> ShardedMasters:
    """Every parameter in as many equal parts as the site has ranks, the last one padded."""
    ranks = len(topology.site.ranks)
    parameters: list[Partitioned] = [parameter for unit in units for _, parameter in unit.parameters]
    shards: list[dict[nn.Parameter, Shard]] = [{} for _ in range(ranks)]
    masters = {}
    for parameter in parameters:
        whole, part = numel(parameter), parameter.partition_numel()
        for rank in range(ranks):
            start, stop = min(rank * part, whole), min((rank + 1) * part, whole)
            if start < stop:
                shards[rank][parameter] = Shard(start, stop)
                if rank == topology.local_index:
                    group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
                    flat = optimizer.fp32_partitioned_groups_flat[group].detach()
                    masters[parameter] = flat[offset : offset + stop - start]

    def publish(selection: Selection, values: Callable[[Run], torch.Tensor]) -> None:
        """Each rank rounds what it holds; what every rank keeps whole is gathered again."""
        for run in selection.mine:
            parameter: Partitioned = run.parameter
            begin = shards[topology.local_index][parameter].start
            parameter.ds_tensor.detach()[run.start - begin : run.stop - begin].copy_(values(run))
        touched: dict[int, Partitioned] = {id(run.parameter): run.parameter for runs in selection.site for run in runs}
        whole = [parameter for parameter in touched.values() if parameter.ds_persist]
        if whole:
            whole[0].partition(whole, has_been_updated=False)
            whole[0].all_gather(whole)

    return ShardedMasters(units, topology, shards, masters, publish)
