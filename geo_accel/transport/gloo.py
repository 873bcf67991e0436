# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Bytes between ranks of several sites over gloo, point-to-point, all for one thread.

One background thread per rank calls this, running the plan's rounds in the plan's order. Every rank therefore enters
the same operations in the same order, whatever its training thread is doing, and no operation here shares a process
group with anything the training thread calls: that is why this cannot deadlock.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
import torch.distributed as dist

from geo_accel.config.names import AUTO
from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.errors import OutOfStepError, SiteLostError, cause_of
from geo_accel.transport.gloo_seam import new_group
from geo_accel.transport.identity import HEADER_BYTES, Header, Message
from geo_accel.transport.patience import Patience
from geo_accel.transport.seal import headers_for
from geo_accel.transport.store import seconds

OUR_GROUPS = "geo_accel"
"""The description of groups that span sites and are ours."""
_HEADERS = 0
"""The tag of headers, which every swap has one of in each direction: so they pair up even where nothing else does."""

Posted = list[tuple[int, dist.Work]]
"""What is on its way, with the peer at the other end."""


class GlooTransport(Transport):
    """A process group per slice. Construct it at the same point on every rank: groups are made collectively."""

    one_ways = 2  # gloo sends nothing before it has heard that the receiver is ready

    def __init__(self, topology: Topology, deadline_s: float | Patience, interface: str = AUTO) -> None:
        """Connects to all peers, over `interface` where it is named.

        `deadline_s` bounds connecting and every wait afterwards (seconds).
        """
        super().__init__(topology, deadline_s)
        start = time.monotonic()
        try:
            # new_group is collective over the world: every rank makes every group, in this order.
            groups = [
                new_group(topology.peer_group(i), self.deadline_s, interface, OUR_GROUPS)
                for i in range(topology.slices)
            ]
        except RuntimeError as error:
            others = ", ".join(site.name for site in topology.sites if site != topology.site)
            raise SiteLostError(
                f"{topology.site.name} could not connect to {others} within {time.monotonic() - start:.0f} s: are "
                f"all ports between the sites open, and is link.interface right? ({cause_of(error)})",
                retryable=True,
            ) from error
        self._group: dist.ProcessGroup | None = groups[topology.local_index] if topology.carries else None

    def carry(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message
    ) -> dict[int, Header]:
        assert self._group is not None, "a swap on a rank that carries nothing, or after close()"
        start, identity, parties = time.monotonic(), message.identity, sorted({*sends, *receives})
        heard = {peer: torch.zeros(HEADER_BYTES, dtype=torch.uint8, device="cpu") for peer in parties}
        # Receives first: a message that finds its receive posted is read straight into place.
        arriving = [
            (peer, self._post(dist.irecv, payload, peer, identity.tag(payload.nbytes), start))
            for peer, payload in receives.items()
            if payload.numel()
        ]
        headers = [(peer, self._post(dist.irecv, room, peer, _HEADERS, start)) for peer, room in heard.items()]
        # A payload of another identity or size than is expected has another tag: it stays where it is, since gloo
        # sends nothing before it is received (and ends the process of who receives less than is sent).
        leaving = [
            (peer, self._post(dist.isend, tensor, peer, identity.tag(tensor.nbytes), start))
            for peer, tensor in sends.items()
            if tensor.numel()
        ]
        told = []
        # Checksums are computed while payloads are on their way.
        for peer, header in headers_for(parties, sends, message).items():
            packed = torch.frombuffer(bytearray(header.to_bytes()), dtype=torch.uint8)
            told.append((peer, self._post(dist.isend, packed, peer, _HEADERS, start)))
        self._wait(headers, start)
        found = {peer: Header.from_bytes(room.numpy().tobytes()) for peer, room in heard.items()}
        try:
            answers = self.require_same_message(identity, found, receives)
        except OutOfStepError:
            self._wait(told, start)  # so that the others can say the same
            raise
        self._wait([*arriving, *leaving, *told], start)
        return answers

    def close(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            # Where the job's own group has ended, all others ended with it.
            with suppress(ValueError):
                dist.destroy_process_group(group)

    def _wait(self, works: Posted, start: float) -> None:
        for peer, work in works:
            remaining = max(0.001, start + self.deadline_s - time.monotonic())
            try:
                work.wait(seconds(remaining))
            except RuntimeError as error:
                raise self._lost(peer, start, error) from error

    def _post(self, verb: Callable, tensor: torch.Tensor, peer: int, tag: int, start: float) -> dist.Work:
        try:
            return verb(tensor, peer, group=self._group, tag=tag)
        except RuntimeError as error:
            raise self._lost(peer, start, error) from error

    def _lost(self, peer: int, start: float, error: Exception) -> SiteLostError:
        waited = time.monotonic() - start
        if "Timed out" in str(error) or "timeout" in str(error).lower():
            return self.silent(peer, waited)
        return self.gone(peer, waited, cause_of(error))
