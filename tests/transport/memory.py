# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites as threads of one process: the exchanges as they are, over queues instead of sockets."""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from geo_accel.topology import Site, Topology
from geo_accel.transport.identity import Identity, Message

_DEADLINE_S = 20


class MemoryTransport:
    """What an exchange asks of a transport, for one of several sites."""

    def __init__(self, rank: int, sites: int, lines: dict) -> None:
        self.topology = Topology(sites=tuple(Site(name=f"site{i}", ranks=(i,)) for i in range(sites)), rank=rank)
        self.peers = tuple(range(sites))
        self._lines = lines
        self.sent: list[int] = []

    def swap(self, sends, receives, message) -> None:
        for peer, tensor in sends.items():
            if tensor.numel():
                self._lines[self.topology.rank, peer].put((message.identity, tensor.clone()))
                self.sent.append(tensor.numel() * tensor.element_size())
        for peer, room in receives.items():
            if room.numel():
                identity, arrived = self._lines[peer, self.topology.rank].get(timeout=_DEADLINE_S)
                assert identity == message.identity, "a message of another identity than expected"
                assert arrived.numel() == room.numel(), "a payload of another size than expected"
                room.copy_(arrived.view(room.dtype))
        message.identity = replace(message.identity, phase=message.identity.phase + 1)


def on_all_sites(sites: int, work: Callable[[MemoryTransport], object]) -> list:
    """What `work(transport)` returns on each of `sites` sites, which run at the same time."""
    lines = {(a, b): queue.Queue() for a in range(sites) for b in range(sites)}
    with ThreadPoolExecutor(sites) as pool:
        futures = [pool.submit(work, MemoryTransport(rank, sites, lines)) for rank in range(sites)]
        return [future.result(timeout=60) for future in futures]


def message(number: int = 0) -> Message:
    """Of round `number`."""
    return Message(Identity(kind="round", step=number))


def bits(tensors: Sequence[torch.Tensor]) -> set[bytes]:
    """Different contents among the tensors, to the bit."""
    return {tensor.numpy().tobytes() for tensor in tensors}
