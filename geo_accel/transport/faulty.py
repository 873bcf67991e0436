# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Faults on purpose, between a transport and whoever swaps over it: delay, silence, loss, damage and death."""

import time
from collections.abc import Callable, Mapping

import torch

from geo_accel.transport.base import Transport
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.identity import Header, Message


class FaultyTransport(Transport):
    """Another transport, and what befalls it at this rank from the next swap on: set the attributes, at any time.

    As it is made, nothing does. The other one's swaps are this one's: neither is to be used beside the other.
    """

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner.topology, inner.patience)
        self.users, self.one_ways = inner.users, inner.one_ways
        self.seals, self.one_world = inner.seals, inner.one_world
        self._inner = inner
        self.delay: Callable[[int, int], float] = lambda sent, received: 0.0
        """Seconds that a swap of so many payload bytes, sent and received, takes longer here."""
        self.silent_s = 0.0
        """Seconds that this rank says nothing before it takes part."""
        self.cut_from: set[int] = set()
        """Peers to and from whom nothing comes through."""
        self.damaged_from: set[int] = set()
        """Peers of whose payloads a bit has changed when they arrive. Seen where the other transport `seals`."""
        self.dies = False
        """Whether this rank ends in place of a swap, without a word to the others."""

    def carry(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message
    ) -> dict[int, Header]:
        if self.dies:
            self.close()
            raise SiteLostError(f"{self.name(self.topology.rank)} has died, as it was told to.")
        time.sleep(self.silent_s)
        if cut := sorted(self.cut_from.intersection({*sends, *receives})):
            raise self._cut(cut, sends, receives, message)
        headers = self._inner.carry(sends, receives, message)
        for peer in self.damaged_from.intersection(receives):
            content = receives[peer].view(torch.uint8)
            if len(content):
                content[len(content) // 2] ^= 16
        time.sleep(self.delay(*(sum(tensor.nbytes for tensor in one.values()) for one in (sends, receives))))
        return headers

    def close(self) -> None:
        self._inner.close()

    def _cut(
        self,
        cut: list[int],
        sends: Mapping[int, torch.Tensor],
        receives: Mapping[int, torch.Tensor],
        message: Message,
    ) -> SiteLostError:
        """Goes through with the others, and waits for those who are cut off until the deadline."""
        start = time.monotonic()
        sends, receives = ({peer: one[peer] for peer in one if peer not in cut} for one in (sends, receives))
        if sends or receives:
            self._inner.carry(sends, receives, message)
        time.sleep(max(0.0, start + self.deadline_s - time.monotonic()))
        return self.silent(cut[0], time.monotonic() - start)
