# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Transports inside one process: between sites that are threads, and of one site with itself."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping

import torch

from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.identity import Header, Message
from geo_accel.transport.seal import headers_for


class Lines:
    """What is on its way between the memory transports that share it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """To be held while looking at the rest."""
        self.under_way: dict[tuple[int, int], deque[tuple[bytes, torch.Tensor | None]]] = defaultdict(deque)
        """By sender and receiver: headers, and copies of payloads that are not empty."""
        self.closed: set[int] = set()
        """Ranks that send nothing any more."""


class MemoryTransport(Transport):
    """One site's end of lines to others, each on a thread of its own."""

    def __init__(self, topology: Topology, deadline_s: float, lines: Lines) -> None:
        """`deadline_s` bounds every wait (seconds)."""
        super().__init__(topology, deadline_s)
        self._lines = lines

    def carry(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message
    ) -> dict[int, Header]:
        start, me, lines = time.monotonic(), self.topology.rank, self._lines
        assert me not in lines.closed, "a swap after close()"
        parties = sorted({*sends, *receives})
        leaving = headers_for(parties, sends, message)
        copies = {peer: tensor.clone() for peer, tensor in sends.items() if tensor.numel()}
        with lines.changed:
            for peer, header in leaving.items():
                lines.under_way[me, peer].append((header.to_bytes(), copies.get(peer)))
            lines.changed.notify_all()
        arrived = {peer: self._next(peer, start) for peer in parties}
        told = {peer: Header.from_bytes(header) for peer, (header, _) in arrived.items()}
        answers = self.require_same_message(message.identity, told, receives)
        for peer, room in receives.items():
            _, payload = arrived[peer]
            if payload is not None:  # as long as the room, its header says
                room.view(torch.uint8).copy_(payload.view(torch.uint8))
        return answers

    def close(self) -> None:
        with self._lines.changed:
            self._lines.closed.add(self.topology.rank)
            self._lines.changed.notify_all()

    def _next(self, peer: int, start: float) -> tuple[bytes, torch.Tensor | None]:
        lines = self._lines
        with lines.changed:
            waiting = lines.under_way[peer, self.topology.rank]
            remaining = max(0.0, start + self.deadline_s - time.monotonic())
            lines.changed.wait_for(lambda: waiting or peer in lines.closed, remaining)
            if waiting:
                return waiting.popleft()
            waited = time.monotonic() - start
            raise self.gone(peer, waited, "it was closed") if peer in lines.closed else self.silent(peer, waited)


class Loopback(Transport):
    """Peers that all say what this rank says, or where their share is not as long as its own, zeros.

    For rehearsals, which count what encoding and applying takes: nothing is summed, told or counted.
    """

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology, deadline_s=0.0)

    def swap(self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message) -> None:
        self.carry(sends, receives, message)

    def carry(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message
    ) -> dict[int, Header]:
        for peer, room in receives.items():
            # Part of a payload is none: where its scales should be, a longer one has codes.
            if room.numel() == sends[peer].numel():
                room.copy_(sends[peer])
            else:
                room.zero_()
        return {}

    def close(self) -> None:
        pass
