# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The seam into DeepSpeed: a communication backend that stays in the site, and where each ZeRO stage keeps masters.

DeepSpeed sends all its communication through one backend object, `deepspeed.comm.comm.cdb`, but offers no way to
choose it; and it tells where masters lie parameter by parameter, in forms that differ between stages. Both are read
here and nowhere else. Versions outside `TESTED` are refused.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator
from deepspeed.comm import comm
from deepspeed.comm.torch import TorchBackend
from deepspeed.runtime.pipe.module import PipelineModule
from deepspeed.runtime.zero import partition_parameters, partitioned_param_coordinator
from packaging.version import Version
from torch import nn

from geo_accel.integrations.session import Session
from geo_accel.masters import CopiedMasters, Masters, PlainMasters, Run, Selection, Shard, ShardedMasters
from geo_accel.topology import Topology
from geo_accel.transport.store import ControlPlane
from geo_accel.units import Unit, numel

TESTED = ("0.19.8", "0.20")
"""The first version that is supported, and the first that is not."""

GROUP_AT = {
    "all_gather": 2,
    "all_gather_base": 2,
    "all_gather_coalesced": 2,
    "all_gather_into_tensor": 2,
    "all_gather_object": 2,
    "all_reduce": 2,
    "all_reduce_coalesced": 2,
    "all_to_all": 2,
    "all_to_all_single": 4,
    "barrier": 0,
    "broadcast": 2,
    "broadcast_object_list": 2,
    "gather": 3,
    "monitored_barrier": 0,
    "reduce": 3,
    "reduce_scatter": 3,
    "reduce_scatter_tensor": 3,
    "scatter": 3,
}
"""TorchBackend's collectives, and which of their arguments the group is."""
ROOT_AT = {
    "broadcast": ("src", 1),
    "broadcast_object_list": ("src", 1),
    "gather": ("dst", 2),
    "reduce": ("dst", 1),
    "scatter": ("src", 2),
}
"""Those that name a rank, and where."""
COMPARING = (partition_parameters, partitioned_param_coordinator)
"""Modules that compare numbers with rank 0."""
NO_PIPELINE = "DeepSpeed's pipeline parallelism is not supported across sites; use ZeRO 0 to 3."
Partitioned = Any
"""A parameter, with what ZeRO has attached to it and its type does not know."""
PEER_AT = {"send": "dst", "recv": "src", "isend": "dst", "irecv": "src"}
"""What names the other end, which is their second argument."""


def require_version() -> None:
    """Raises ValueError for a DeepSpeed that this file was not tested with."""
    first, end = TESTED
    if not Version(first) <= Version(Version(deepspeed.__version__).base_version) < Version(end):
        raise ValueError(
            f"DeepSpeed {deepspeed.__version__} is not supported: geo_accel was tested with {first} up to, not "
            f"including, {end}. Install one of those."
        )


class GeoBackend(TorchBackend):
    """torch.distributed as DeepSpeed calls it, with the site as the world of every collective.

    What asks for all ranks, by naming no group, the world's group or a new group of all, gets the site's. The number
    of ranks and a rank's number stay the world's where no group is named: batch sizes are computed from them. A rank
    that is to be the root and is of another site stands for the rank in its place here.
    """

    def __init__(self, session: Session) -> None:
        """Collective where torch.distributed's own initialisation is, which must have been made."""
        assert dist.is_initialized()
        super().__init__(dist.get_backend(), timeout=None, init_method=None, name="geo_accel")
        self.session = session
        assert session.site_group is not None  # sites of one world have theirs
        self._topology, self._site_group = session.topology, session.site_group
        for name in GROUP_AT:
            setattr(self, name, self._in_site(name))
        for name in PEER_AT:
            setattr(self, name, self._to_a_neighbour(name))

    def get_world_group(self) -> dist.ProcessGroup:
        return self._site_group

    def new_group(self, ranks: Sequence[int]) -> dist.ProcessGroup | int | None:
        """Raises ValueError for a part of the world that is in several sites."""
        ranks = list(ranks)
        if sorted(ranks) == list(range(self._topology.world_size)):
            return self._site_group
        sites = {self._topology.site_of(rank).name for rank in ranks}
        if len(sites) > 1:
            raise ValueError(
                f"DeepSpeed wants a group of ranks {ranks}, which are in {', '.join(sorted(sites))}: tensor, "
                "pipeline, sequence and expert parallelism across sites are not supported; use ZeRO 0 to 3."
            )
        return super().new_group(ranks)

    def init_device_mesh(self, mesh_shape: tuple, mesh_dim_names: tuple) -> NoReturn:
        raise ValueError("a DeepSpeed device mesh spans sites, which geo_accel does not support.")

    def inference_all_reduce(self, tensor: torch.Tensor, op: object, group: dist.ProcessGroup | None = None) -> object:
        """By the group alone: DeepSpeed's kernel for shared memory knows no groups."""
        return self.all_reduce(tensor, op, group)

    def _in_site(self, name: str) -> Callable:
        call, group_at = getattr(super(), name), GROUP_AT[name]
        root = ROOT_AT.get(name)

        def in_site(*args: Any, **kwargs: Any) -> object:
            given = list(args)
            group = given[group_at] if len(given) > group_at else kwargs.get("group")
            if group is None or group is dist.group.WORLD or group is self._site_group:
                if len(given) > group_at:
                    given[group_at] = self._site_group
                else:
                    kwargs["group"] = self._site_group
                if root is not None:
                    key, root_at = root
                    if len(given) > root_at:
                        given[root_at] = self._here(given[root_at])
                    else:
                        kwargs[key] = self._here(kwargs.get(key, 0))
            return call(*given, **kwargs)

        return in_site

    def _here(self, rank: int) -> int:
        """The rank of this site that stands for `rank`."""
        ranks = self._topology.site.ranks
        return rank if rank in ranks else ranks[self._topology.site_of(rank).ranks.index(rank) % len(ranks)]

    def _to_a_neighbour(self, name: str) -> Callable:
        call = getattr(super(), name)

        def checked(*args: object, **kwargs: object) -> object:
            rank = args[1] if len(args) > 1 else kwargs.get(PEER_AT[name])
            if rank is not None and rank not in self._topology.site.ranks:
                raise ValueError(f"DeepSpeed wants to {name} with rank {rank}, which is in another site.")
            return call(*args, **kwargs)

        return checked


def install(backend: GeoBackend) -> None:
    """Makes DeepSpeed communicate through `backend` from now on.

    ZeRO-3 compares traces with rank 0 of the world, which all but one site could not hear: with the site's first.
    """
    comm.cdb = backend  # pyrefly: ignore[bad-assignment] (which holds None until there is one)

    def assert_ints_same_as_other_ranks(ints: list[int]) -> None:
        first, device = backend.session.topology.site.ranks[0], get_accelerator().current_device_name()
        length = torch.tensor(len(ints), dtype=torch.int64, device=device)
        backend.broadcast(length, first)
        mine = torch.tensor(ints, dtype=torch.int64, device=device)
        theirs = mine.clone() if dist.get_rank() == first else mine.new_empty(int(length))
        backend.broadcast(theirs, first)
        if theirs.tolist() != ints:
            raise RuntimeError(f"ranks {first} and {dist.get_rank()} disagree: {theirs.tolist()[:20]}, {ints[:20]}")

    for module in COMPARING:
        assert hasattr(module, "assert_ints_same_as_other_ranks")
        module.assert_ints_same_as_other_ranks = assert_ints_same_as_other_ranks
    # ZeRO-3 takes a group of one rank in a larger job for a mistake; here it is a site of one rank.
    assert hasattr(partition_parameters, "_contradicting_single_rank_pg_error")
    partition_parameters._contradicting_single_rank_pg_error = lambda *_, **__: None
    refuse_pipelines()


def refuse_pipelines() -> None:
    """From now on a pipeline is refused in our words; DeepSpeed would call the site an invalid grid."""

    def refuse(self: PipelineModule, *_: object, **__: object) -> None:
        raise ValueError(NO_PIPELINE)

    PipelineModule.__init__ = refuse


def installed() -> GeoBackend | None:
    """The backend that `install` was given; None where DeepSpeed has its own."""
    return comm.cdb if isinstance(comm.cdb, GeoBackend) else None


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
