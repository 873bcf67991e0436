# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Collectives inside a site over gloo, for the thread that also talks to the other sites.

Ranks of a site enter them in the order of the rounds, like swaps, over a process group that the training thread never
touches.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from geo_accel.config.names import AUTO
from geo_accel.topology import Topology
from geo_accel.transport.errors import SiteLostError, cause_of
from geo_accel.transport.gloo_seam import new_group


class InsideSite:
    """One rank's.

    On a rank that is alone in its site every method returns at once. All others raise SiteLostError where a rank of
    the site was lost or stays silent until the deadline.
    """

    def __init__(self, topology: Topology, group: dist.ProcessGroup | None) -> None:
        """`group`: the ranks of the site, in order; None where there is one."""
        self._topology = topology
        self._group = group

    @classmethod
    def in_one_job(cls, topology: Topology, deadline_s: float, interface: str = AUTO) -> "InsideSite":
        """Connects the ranks of the site, over `interface` where it is named, at the same point on every rank of all.

        `deadline_s` bounds connecting and every wait afterwards (seconds).
        """
        with _losing_ranks(topology.site.name):
            # Collective over the world, in site order. One rank alone has nobody to tell, and every group has a
            # thread of its own.
            groups = [
                new_group(site.ranks, deadline_s, interface) if len(site.ranks) > 1 else None
                for site in topology.sites
            ]
        return cls(topology, groups[topology.site_index])

    def share(self, buffer: torch.Tensor, mine: torch.Tensor | None) -> None:
        """Gives every rank of the site all slices: `buffer` is (slices, n), `mine` this rank's row of n elements.

        Where the first rank carries everything, `buffer` is its own row and is broadcast.
        """
        if self._topology.slices == 1:
            self.broadcast(buffer)
            return
        with _losing_ranks(self._topology.site.name):
            dist.all_gather(list(buffer.unbind(0)), mine, group=self._group)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Gives every rank of the site the first rank's `tensor`, in place."""
        if self._group is not None:
            with _losing_ranks(self._topology.site.name):
                dist.broadcast(tensor, group=self._group, group_src=0)

    def any(self, bits: int) -> int:
        """What any rank of the site has set among `bits`."""
        return any_of(self._group, bits, self._topology.site.name)


def job_group(deadline_s: float) -> dist.ProcessGroup | None:
    """A group of all ranks of this job, which is one site, apart from the job's own; None where there is one rank.

    Collective. `deadline_s` bounds connecting and every wait afterwards (seconds).
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    with _losing_ranks("this site"):
        return new_group(range(dist.get_world_size()), deadline_s)


def told_by_first(group: dist.ProcessGroup | None, message: Mapping[str, Any] | None) -> Any:
    """The first rank's `message`, which JSON can hold, on every rank of the group. Collective."""
    if group is None:
        return message
    with _losing_ranks("this site"):
        data = bytearray(json.dumps(message).encode()) if message is not None else bytearray()
        length = torch.tensor([len(data)], dtype=torch.int64, device="cpu")
        dist.broadcast(length, group=group, group_src=0)
        room = torch.empty(int(length), dtype=torch.uint8, device="cpu")
        if dist.get_rank(group) == 0:
            room = torch.frombuffer(data, dtype=torch.uint8)
        dist.broadcast(room, group=group, group_src=0)
    return json.loads(room.numpy().tobytes())


def any_of(group: dist.ProcessGroup | None, bits: int, site: str = "this site") -> int:
    """What any rank of the group has set among `bits`. Collective; None where there is one rank."""
    if group is None:
        return bits
    told = torch.tensor([bits], dtype=torch.int64, device="cpu")
    with _losing_ranks(site):
        dist.all_reduce(told, op=dist.ReduceOp.BOR, group=group)
    return int(told)


@contextmanager
def _losing_ranks(site: str) -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        raise SiteLostError(f"{site}: a rank of this site was lost ({cause_of(error)}).") from error
