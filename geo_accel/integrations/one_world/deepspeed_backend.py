# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A communication backend for DeepSpeed that stays in the site.

DeepSpeed sends all its communication through one backend object, `deepspeed.comm.comm.cdb`, but offers no way to
choose it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.comm import comm
from deepspeed.comm.torch import TorchBackend
from deepspeed.runtime.zero import partition_parameters, partitioned_param_coordinator

from geo_accel.integrations.deepspeed_seam import refuse_pipelines
from geo_accel.integrations.session import Session

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
PEER_AT = {"send": "dst", "recv": "src", "isend": "dst", "irecv": "src"}
"""What names the other end, which is their second argument."""


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


def installed() -> GeoBackend | None:
    """The backend that `install` was given; None where DeepSpeed has its own."""
    return comm.cdb if isinstance(comm.cdb, GeoBackend) else None
