# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Timed transfers over the run's own transport, and meetings: how a link is measured.

They run on the background thread, among the rounds. What each site saw is told to all over the same links, so that
all choose the next transfer alike without asking the job's store.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from time import perf_counter

import torch

from geo_accel.sites.inside import InsideSite
from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.identity import Identity, Message
from geo_accel.transport.tcp_info import resent_segments

Sends = int | Mapping[int, int]
"""Bytes to every receiver: by sending rank, or one number for all."""


class Transfers:
    """One rank's. All ranks call the same methods in the same order, with the same arguments, on the thread that talks
    to the other sites.

    Whoever waits raises SiteLostError for a site that does not answer.
    """

    def __init__(self, transport: Transport, inside: InsideSite) -> None:
        self._transport, self._inside = transport, inside
        self._topology: Topology = transport.topology
        self.one_ways = transport.one_ways
        """One-way latencies of the line in what `latency` measures."""
        self._count = 0
        self._told_s = 0.0
        """Seconds of the last telling, without what ranks of a site told each other."""
        self._resent = resent_segments() or 0

    def meet(self) -> None:
        """Returns when all ranks have come here, with all of them."""
        self.tell(0.0)

    def tell(self, value: float) -> list[float]:
        """What the ranks of each site say, the largest of it, by site."""
        return self._tell(value, self._message())

    def latency(self, least: int = 2, most: int = 5) -> list[float]:
        """Seconds of an exchange of next to nothing, by site: the quickest of `least`, or more until two are alike."""
        message = self._message()
        self._tell(0.0, message)  # makes all start together
        self._tell(0.0, message)
        seen = []
        while len(seen) < most:
            seen.append(self._tell(self._told_s, message))  # what the one before has taken
            if len(seen) >= least and _alike([max(row) for row in seen]):
                break
        return [min(times) for times in zip(*seen, strict=True)]

    def exchange(self, sends: Sends, receivers: Collection[int] | None = None) -> list[float]:
        """By site, the seconds until every sender has sent all it is to send to every receiver.

        It begins at once: ranks have just met or exchanged. Ranks that are neither senders nor receivers only hear
        what it took; without `receivers` all receive.
        """
        message = self._message()
        taken = self._transfer(sends, receivers, message)
        message.identity = replace(message.identity, phase=1)  # also where this rank had no part in the transfer
        return self._tell(taken, message)

    def have_lost(self) -> bool:
        """Whether any rank's system has sent something again since this was last asked, and sends the less for it; the
        same on all.

        False where systems do not tell.
        """
        before, self._resent = self._resent, resent_segments() or 0
        return max(self.tell(0 if self._transport.rides_out_losses else self._resent - before)) > 0

    def transfer(self, nbytes: int) -> float:
        """`nbytes` from all to all; seconds here. It begins at once, like an exchange, and nobody hears of it."""
        return self._transfer(nbytes, None, self._message())

    def sound(self, nbytes: int, times: int) -> None:
        """`nbytes` from all to all, `times` times, begun together. What it took is among the transport's swaps."""
        message = self._message()
        self._tell(0.0, message)
        for _ in range(times):
            self._transfer(nbytes, None, message)

    def _message(self) -> Message:
        self._count += 1
        return Message(Identity(kind="probe", number=self._count))

    def _others(self) -> list[int]:
        return [peer for peer in self._transport.peers if peer != self._topology.rank]

    def _transfer(self, sends: Sends, receivers: Collection[int] | None, message: Message) -> float:
        """0 on a rank that has no part in it, carries nothing or is alone."""
        me, peers = self._topology.rank, self._transport.peers
        sending = dict.fromkeys(peers, sends) if isinstance(sends, int) else sends
        sending = {peer: size for peer, size in sending.items() if peer in peers}
        receiving = set(peers if receivers is None else receivers).intersection(peers)
        payload = torch.zeros(sending.get(me, 0), dtype=torch.uint8, device="cpu")
        outgoing = dict.fromkeys(receiving - {me}, payload) if me in sending else {}
        heard = {peer: size for peer, size in sending.items() if peer != me} if me in receiving else {}
        incoming = {peer: torch.empty(size, dtype=torch.uint8, device="cpu") for peer, size in heard.items()}
        if not outgoing and not incoming:
            return 0.0
        start = perf_counter()
        self._transport.swap(outgoing, incoming, message)
        return perf_counter() - start

    def _tell(self, value: float, message: Message) -> list[float]:
        topology, transport = self._topology, self._transport
        row = torch.zeros(len(topology.sites), dtype=torch.float64, device="cpu")
        if topology.carries:
            here = topology.site_index
            row[here] = value
            places = {peer: topology.sites.index(topology.site_of(peer)) for peer in self._others()}
            rooms = {peer: row[place : place + 1] for peer, place in places.items()}
            if rooms:
                start = perf_counter()
                transport.swap(dict.fromkeys(rooms, row[here : here + 1].clone()), rooms, message)
                self._told_s = perf_counter() - start
        if len(topology.site.ranks) > 1:
            everything = row.repeat(topology.slices, 1)
            self._inside.share(everything, row)
            row = everything.amax(dim=0)
        return row.tolist()


def _alike(seconds: list[float]) -> bool:
    """Whether the two smallest differ by less than a twentieth."""
    first, second = sorted(seconds)[:2]
    return second < 1.05 * first
