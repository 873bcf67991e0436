# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Bytes between ranks over gloo: point-to-point across sites, collectives inside a site, all for one thread.

One background thread per rank calls this, running the plan's rounds in the plan's order. Every rank therefore enters
the same operations in the same order, whatever its training thread is doing, and no operation here shares a process
group with anything the training thread calls: that is why this cannot deadlock.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist

from geo_accel.topology import Topology
from geo_accel.transport.errors import DamagedPayloadError, OutOfStepError, SiteLostError
from geo_accel.transport.identity import HEADER_BYTES, Header, Identity, Message, disagreement
from geo_accel.transport.seal import checksum_of, damage, wrong_length
from geo_accel.transport.store import seconds
from geo_accel.transport.waiting import Waiting

_KEPT_SWAPS = 4096
OUR_GROUPS = "geo_accel"
"""The description of groups that span sites and are ours."""
_HEADERS = 0
"""The tag of headers, which every swap has one of in each direction: so they pair up even where nothing else does."""


class GlooTransport:
    """The process groups of one rank. Construct it at the same point on every rank: groups are made collectively."""

    def __init__(self, topology: Topology, deadline_s: float) -> None:
        """Connects to all peers. `deadline_s` bounds connecting and every wait afterwards (seconds)."""
        self.topology = topology
        self.deadline_s = deadline_s
        self.bytes_sent = 0
        """Payload bytes that this rank has sent across the WAN."""
        self.users: set[object] = set()
        """Whoever may have something on its way."""
        self._swaps: deque[tuple[int, float]] = deque(maxlen=_KEPT_SWAPS)
        self._waiting = Waiting(deadline_s)
        start = time.monotonic()
        try:
            # new_group is collective over the world: every rank makes every group, in this order.
            peer_groups = [
                dist.new_group(
                    topology.peer_group(i), backend="gloo", timeout=seconds(deadline_s), group_desc=OUR_GROUPS
                )
                for i in range(topology.slices)
            ]
            # One rank alone has nobody to tell, and every group has a thread of its own.
            site_groups = [
                dist.new_group(site.ranks, backend="gloo", timeout=seconds(deadline_s))
                if len(site.ranks) > 1
                else None
                for site in topology.sites
            ]
        except RuntimeError as error:
            others = ", ".join(site.name for site in topology.sites if site != topology.site)
            raise SiteLostError(
                f"{topology.site.name} could not connect to {others} within {time.monotonic() - start:.0f} s: are "
                f"all ports between the sites open, and is link.interface right? ({_cause(error)})"
            ) from error
        self._peer_group = peer_groups[topology.local_index] if topology.carries else None
        self._site_group = site_groups[topology.site_index]
        self.peers = topology.peer_group(topology.local_index) if topology.carries else ()

    def swap(self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message) -> None:
        """Sends and receives flat CPU tensors, keyed by peer rank, all at once, each with its header behind it.

        Both ends name each other, with an empty tensor where there is nothing to send. `message.wishes` go with it
        and become everybody's; its identity's phase counts on.

        Raises SiteLostError naming the peer that broke the connection or stayed silent until the deadline,
        DamagedPayloadError naming the one whose payload arrived cut off or changed, and on all who take part
        OutOfStepError with who does what, where they are not at the same message. Nothing was used then.
        """
        start = time.monotonic()
        identity = message.identity
        parties = {*sends, *receives}
        what = f"{self._name(self.topology.rank)} {identity.said_of(several=False)}"
        with self._waiting.over(what, lambda: ", ".join(f"site {self._name(peer)}" for peer in sorted(parties))):
            headers = self._send_and_receive(sends, receives, message, start)
        for peer, payload in receives.items():
            if problem := damage(payload, headers[peer]):
                raise self._damaged(peer, problem)
        for header in headers.values():
            message.wishes |= header.wishes
        message.identity = replace(identity, phase=identity.phase + 1)
        nbytes = sum(tensor.nbytes for tensor in sends.values()) + HEADER_BYTES * len(parties)
        self.bytes_sent += nbytes
        self._swaps.append((nbytes, time.monotonic() - start))

    def _send_and_receive(
        self,
        sends: Mapping[int, torch.Tensor],
        receives: Mapping[int, torch.Tensor],
        message: Message,
        start: float,
    ) -> dict[int, Header]:
        """Returns what the parties' headers say, once all payloads have arrived."""
        identity, parties = message.identity, sorted({*sends, *receives})
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
        # Checksums are computed while payloads are on their way, once where one goes to several peers.
        checksums = {id(tensor): checksum_of(tensor) for tensor in {id(t): t for t in sends.values()}.values()}
        told = []
        for peer in parties:
            tensor = sends.get(peer)
            nbytes, checksum = (tensor.nbytes, checksums[id(tensor)]) if tensor is not None else (0, 0)
            header = Header(identity=identity, wishes=message.wishes, nbytes=nbytes, checksum=checksum).to_bytes()
            packed = torch.frombuffer(bytearray(header), dtype=torch.uint8)
            told.append((peer, self._post(dist.isend, packed, peer, _HEADERS, start)))
        self._wait(headers, start)
        answers = {peer: Header.from_bytes(room.numpy().tobytes()) for peer, room in heard.items()}
        self._require_same_point(identity, answers, told, start)
        for peer, payload in receives.items():
            if problem := wrong_length(payload, answers[peer]):
                raise self._damaged(peer, problem)
        self._wait([*arriving, *leaving, *told], start)
        return answers

    def _require_same_point(
        self,
        mine: Identity,
        answers: Mapping[int, Header | None],
        told: list[tuple[int, dist.Work]],
        start: float,
    ) -> None:
        for peer, header in answers.items():
            if header is None:
                raise self._damaged(peer, "it is no message of this version of geo_accel")
        identities = {peer: header.identity for peer, header in answers.items()} | {self.topology.rank: mine}
        if problem := disagreement(identities, self._name):
            self._wait(told, start)  # so that the others can say the same
            raise OutOfStepError(problem)

    def _wait(self, works: list[tuple[int, dist.Work]], start: float) -> None:
        for peer, work in works:
            remaining = max(0.001, start + self.deadline_s - time.monotonic())
            try:
                work.wait(seconds(remaining))
            except RuntimeError as error:
                raise self._lost(peer, start, error) from error

    def _post(self, verb: Callable, tensor: torch.Tensor, peer: int, tag: int, start: float) -> dist.Work:
        try:
            return verb(tensor, peer, group=self._peer_group, tag=tag)
        except RuntimeError as error:
            raise self._lost(peer, start, error) from error

    def _name(self, rank: int) -> str:
        return f"{self.topology.site_of(rank).name} (rank {rank})"

    def _damaged(self, peer: int, problem: str) -> DamagedPayloadError:
        return DamagedPayloadError(
            f"site {self._name(peer)}: what it sent arrived damaged: {problem}; "
            "nothing of it was used. Look for a faulty network path between the sites."
        )

    def take_swaps(self) -> list[tuple[int, float]]:
        """Bytes sent and seconds of the swaps since the last call, the latest thousands of them.

        Background thread, or while it rests. Peers have as many, in the same order.
        """
        taken = list(self._swaps)
        self._swaps.clear()
        return taken

    def share(self, buffer: torch.Tensor, mine: torch.Tensor | None) -> None:
        """Gives every rank of the site all slices: `buffer` is (slices, n), `mine` this rank's row of n elements.

        Where the first rank carries everything, `buffer` is its own row and is broadcast.
        """
        if self.topology.slices == 1:
            self.broadcast_in_site(buffer)
            return
        with self._inside_site():
            dist.all_gather(list(buffer.unbind(0)), mine, group=self._site_group)

    def broadcast_in_site(self, tensor: torch.Tensor) -> None:
        """Gives every rank of the site the first rank's `tensor`, in place."""
        ranks = self.topology.site.ranks
        if len(ranks) > 1:
            with self._inside_site():
                dist.broadcast(tensor, ranks[0], group=self._site_group)

    def any_in_site(self, bits: int) -> int:
        """What any rank of the site has set among `bits`. Collective inside the site."""
        if len(self.topology.site.ranks) == 1:
            return bits
        told = torch.tensor([bits], dtype=torch.int64, device="cpu")
        with self._inside_site():
            dist.all_reduce(told, op=dist.ReduceOp.BOR, group=self._site_group)
        return int(told)

    @contextmanager
    def _inside_site(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise SiteLostError(
                f"{self.topology.site.name}: a rank of this site was lost ({_cause(error)})."
            ) from error

    def _lost(self, peer: int, start: float, error: Exception) -> SiteLostError:
        waited = time.monotonic() - start
        if "Timed out" in str(error) or "timeout" in str(error).lower():
            return SiteLostError(
                f"site {self._name(peer)} has been silent for {waited:.0f} s (resilience.round_timeout_s = "
                f"{self.deadline_s:g}): its process hangs or the link is down."
            )
        return SiteLostError(
            f"site {self._name(peer)} is gone: the connection broke after {waited:.1f} s ({_cause(error)})."
        )


def _cause(error: Exception) -> str:
    """gloo's message without its source location and its guesses."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[\S*/gloo/\S*\] ", "", text).split(". This is typically")[0][:160]
