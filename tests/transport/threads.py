# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites as threads of one process: rounds and measuring as they are, over memory instead of sockets."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from geo_accel.sites.inside import InsideSite
from geo_accel.topology import Site, Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.identity import HEADER_BYTES, Identity, Message
from geo_accel.transport.memory import Lines, MemoryTransport

DEADLINE_S = 20.0


def topology_of(rank: int, sites: int) -> Topology:
    """Of sites of one rank each."""
    return Topology(sites=tuple(Site(name=f"site{i}", ranks=(i,)) for i in range(sites)), rank=rank)


def on_all_sites(sites: int, work: Callable[[MemoryTransport], object], deadline_s: float = DEADLINE_S) -> list:
    """What `work(transport)` returns on each of `sites` sites, which run at the same time."""
    lines = Lines()
    transports = [MemoryTransport(topology_of(rank, sites), deadline_s, lines) for rank in range(sites)]
    with ThreadPoolExecutor(sites) as pool:
        futures = [pool.submit(work, transport) for transport in transports]
        return [future.result(timeout=60) for future in futures]


def alone_in_site(transport: Transport) -> InsideSite:
    """Of a rank that is all of its site."""
    return InsideSite(transport.topology, None)


def payload_bytes(transport: Transport) -> list[int]:
    """By swap with all others since this was last asked, what was sent besides headers."""
    headers = HEADER_BYTES * (len(transport.peers) - 1)
    return [nbytes - headers for nbytes, _ in transport.take_swaps()]


def message(number: int = 0) -> Message:
    """Of round `number`."""
    return Message(Identity(kind="round", step=number))


def bits(tensors: Sequence[torch.Tensor]) -> set[bytes]:
    """Different contents among the tensors, to the bit."""
    return {tensor.numpy().tobytes() for tensor in tensors}
