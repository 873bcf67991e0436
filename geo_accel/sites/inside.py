# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Collectives inside a site over gloo, for the thread that also talks to the other sites.

Ranks of a site enter them in the order of the rounds, like swaps, over a process group that the training thread never
touches.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from geo_accel.config.names import AUTO
from geo_accel.topology import Topology
from geo_accel.transport.errors import SiteLostError, cause_of
from geo_accel.transport.gloo_seam import new_group


class InsideSite:
    """One rank's. Construct it at the same point on every rank: groups are made collectively.

    On a rank that is alone in its site every method returns at once. All others raise SiteLostError where a rank of
    the site was lost or stays silent until the deadline.
    """

    def __init__(self, topology: Topology, deadline_s: float, interface: str = AUTO) -> None:
        """Connects the ranks of the site, over `interface` where it is named.

        `deadline_s` bounds connecting and every wait afterwards (seconds).
        """
        self._topology = topology
        with self._losing_ranks():
            # Collective over the world, in site order. One rank alone has nobody to tell, and every group has a
            # thread of its own.
            groups = [
                new_group(site.ranks, deadline_s, interface) if len(site.ranks) > 1 else None
                for site in topology.sites
            ]
        self._group: dist.ProcessGroup | None = groups[topology.site_index]

    def share(self, buffer: torch.Tensor, mine: torch.Tensor | None) -> None:
        """Gives every rank of the site all slices: `buffer` is (slices, n), `mine` this rank's row of n elements.

        Where the first rank carries everything, `buffer` is its own row and is broadcast.
        """
        if self._topology.slices == 1:
            self.broadcast(buffer)
            return
        with self._losing_ranks():
            dist.all_gather(list(buffer.unbind(0)), mine, group=self._group)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Gives every rank of the site the first rank's `tensor`, in place."""
        if self._group is not None:
            with self._losing_ranks():
                dist.broadcast(tensor, self._topology.site.ranks[0], group=self._group)

    def any(self, bits: int) -> int:
        """What any rank of the site has set among `bits`."""
        if self._group is None:
            return bits
        told = torch.tensor([bits], dtype=torch.int64, device="cpu")
        with self._losing_ranks():
            dist.all_reduce(told, op=dist.ReduceOp.BOR, group=self._group)
        return int(told)

    @contextmanager
    def _losing_ranks(self) -> Generator[None]:
        try:
            yield
        except RuntimeError as error:
            raise SiteLostError(
                f"{self._topology.site.name}: a rank of this site was lost ({cause_of(error)})."
            ) from error
