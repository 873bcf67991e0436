# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The contract of a transport: what rounds, measuring and flushes ask of whatever carries bytes between sites.

A maker (gloo between processes, memory between threads) says how bytes are carried and how its connections end. What a
swap promises stands here, with the words of its errors, and `tests/transport/conformance.py` holds every maker to it.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from copy import copy
from dataclasses import replace

import torch

from geo_accel.topology import Topology
from geo_accel.transport.errors import DamagedPayloadError, OutOfStepError, SiteLostError
from geo_accel.transport.identity import HEADER_BYTES, Header, Identity, Message, disagreement
from geo_accel.transport.patience import Patience
from geo_accel.transport.seal import damage, wrong_length
from geo_accel.transport.waiting import Waiting

_KEPT_SWAPS = 4096


class Transport(ABC):
    """One rank's connections to its peers: the ranks, one of every site, that carry the same slice.

    All ranks construct theirs at the same point. One thread calls it, in the order that is the same on all peers.
    After an error of a swap nothing more can be said over it: `close` it, and open another where the error is
    `retryable`.
    """

    seals: bool = True
    """Whether payloads carry checksums: not where the line itself lets nothing through that was changed."""
    one_world: bool = True
    """Whether its ranks are those of one torch world, which spans the sites."""
    quiet_s: float | None = None
    """The longest time in the last swap in which a peer showed no progress; None where that is not seen."""
    rides_out_losses: bool = False
    """Whether its connections go by what arrives, so that a lost packet is no reason for them to send less."""
    one_ways: int = 1
    """One-way latencies that a swap takes. More than 1 where a sender first has to hear that the receiver is ready."""

    def __init__(self, topology: Topology, deadline_s: float | Patience) -> None:
        """`deadline_s` bounds every wait (seconds); a Patience learns from the waits that end well."""
        self.topology = topology
        self.patience = deadline_s if isinstance(deadline_s, Patience) else Patience(deadline_s)
        self.peers: tuple[int, ...] = topology.peer_group(topology.local_index) if topology.carries else ()
        """In site order, this rank among them; empty on a rank that carries nothing."""
        self.bytes_sent = 0
        """Payload bytes that this rank has sent across the WAN."""
        self.users: set[object] = set()
        """Whoever may have something on its way."""
        self._swaps: deque[tuple[int, float]] = deque(maxlen=_KEPT_SWAPS)
        self._waiting = Waiting(lambda: self.deadline_s)
        self._failed: SiteLostError | None = None
        self._at_work = threading.Lock()
        """Held by the one thread that swaps."""

    @property
    def deadline_s(self) -> float:
        """So many seconds are waited for a peer that shows no progress."""
        return self.patience.seconds

    def swap(self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message) -> None:
        """Sends and receives flat CPU tensors, keyed by peer rank, all at once, each with its header behind it.

        Both ends name each other, with an empty tensor where there is nothing to send. `message.wishes` go with it
        and become everybody's; its identity gets the sites' generation, and its phase counts on.

        Raises SiteLostError naming the peer that broke the connection or stayed silent until the deadline,
        DamagedPayloadError naming the one whose payload arrived cut off or changed, and on all who take part
        OutOfStepError with who does what, where they are not at the same message. Nothing was used then, and every
        later swap raises the same at once.
        """
        # Between processes the swaps of two threads would be taken for one another, now and then and in silence.
        assert self._at_work.acquire(blocking=False), "two threads swap over one transport"
        try:
            if self._failed is not None:
                raise copy(self._failed)
            self._swap(sends, receives, message)
        except SiteLostError as error:
            # What was queued behind it would wait for peers that wait for nothing any more, past the script's end.
            self._failed = copy(error)  # without the frames that hold what closing lets go of
            raise
        finally:
            self._at_work.release()

    def _swap(self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message) -> None:
        start = time.monotonic()
        identity = message.identity = replace(message.identity, generation=self.topology.generation)
        parties = {*sends, *receives}
        what = f"{self.name(self.topology.rank)} {identity.said_of(several=False)}"
        with self._waiting.over(what, lambda: ", ".join(f"site {self.name(peer)}" for peer in sorted(parties))):
            headers = self.carry(sends, receives, message)
        for peer, payload in receives.items():
            if self.seals and (problem := damage(payload, headers[peer])):
                raise self.damaged(peer, problem)
        for header in headers.values():
            message.wishes |= header.wishes
        message.identity = replace(identity, phase=identity.phase + 1)
        nbytes = sum(tensor.nbytes for tensor in sends.values()) + HEADER_BYTES * len(parties)
        self.bytes_sent += nbytes
        took = time.monotonic() - start
        self._swaps.append((nbytes, took))
        self.patience.saw(took if self.quiet_s is None else self.quiet_s)

    def take_swaps(self) -> list[tuple[int, float]]:
        """Bytes sent and seconds of the swaps since the last call, the latest thousands of them.

        Background thread, or while it rests. Peers have as many, in the same order.
        """
        taken = list(self._swaps)
        self._swaps.clear()
        return taken

    @abstractmethod
    def carry(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message
    ) -> dict[int, Header]:
        """One swap's bytes: returns the parties' headers, once all payloads have arrived and left.

        It asks `require_same_message` as soon as it has all headers, tells the others its own whatever comes of that,
        and raises `silent` or `gone` for whom it waits in vain. Checksums are compared by `swap`.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends this rank's connections and their threads, whether swaps went well or not; again, it does nothing.

        It asks nobody and waits for nobody. A peer that still waits for this rank learns that it is gone. To be called
        while no swap runs; none may follow.
        """

    def require_same_message(
        self, mine: Identity, answers: Mapping[int, Header | None], receives: Mapping[int, torch.Tensor]
    ) -> dict[int, Header]:
        """The parties' headers. Raises as `swap` does where they are not all of this message, or of lengths as
        expected."""
        headers: dict[int, Header] = {}
        for peer, header in answers.items():
            if header is None:
                raise self.damaged(peer, "it is no message of this version of geo_accel")
            headers[peer] = header
        identities = {peer: header.identity for peer, header in headers.items()} | {self.topology.rank: mine}
        if problem := disagreement(identities, self.name):
            raise OutOfStepError(problem)
        for peer, payload in receives.items():
            if problem := wrong_length(payload, headers[peer]):
                raise self.damaged(peer, problem)
        return headers

    def name(self, rank: int) -> str:
        """As errors call it: "site1 (rank 3)"."""
        return self.topology.called(rank)

    def damaged(self, peer: int, problem: str) -> DamagedPayloadError:
        """To be raised for what `peer` has sent."""
        return DamagedPayloadError(
            f"site {self.name(peer)}: what it sent arrived damaged: {problem}; "
            "nothing of it was used. Look for a faulty network path between the sites."
        )

    def silent(self, peer: int, waited_s: float) -> SiteLostError:
        """To be raised where `peer` has not answered for `waited_s` seconds, the deadline."""
        return SiteLostError(
            f"site {self.name(peer)} has been silent for {waited_s:.0f} s (resilience.patience_s = "
            f"{self.deadline_s:g}): its process hangs or the link is down.",
            retryable=True,
        )

    def gone(self, peer: int, waited_s: float, cause: str) -> SiteLostError:
        """To be raised where the connection to `peer` broke, `waited_s` seconds into a swap."""
        return SiteLostError(
            f"site {self.name(peer)} is gone: the connection broke after {waited_s:.1f} s ({cause}).", retryable=True
        )
