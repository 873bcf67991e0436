# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A transport between sites that are jobs of their own: TLS over several TCP connections per pair of ranks.

One loop runs all lines, on the thread that swaps and only while it does: between swaps bytes wait in the kernel, and
whoever sends too much waits. It cannot deadlock: a step that cannot go on gives way to all others, what is said on
control lines needs no payload to move, and no rank waits for anything but bytes that a peer in the same swap owes it.
"""

import logging
import selectors
import socket
from collections.abc import Mapping
from time import monotonic, sleep

import torch

from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.identity import Header, Message
from geo_accel.transport.links.frames import FrameError
from geo_accel.transport.links.lines import LineBrokenError, LineRefusedError, Wait, prepare
from geo_accel.transport.links.link import Line, Link, new_sink
from geo_accel.transport.links.openings import CONNECT_S, STRANGER_S, Opening, Retry, accepting, dialling
from geo_accel.transport.links.pace import Pace
from geo_accel.transport.links.secured import Secured
from geo_accel.transport.links.ways import Ways
from geo_accel.transport.patience import Patience
from geo_accel.transport.seal import headers_for

logger = logging.getLogger("geo_accel")

LINES = 16
"""For payload, per pair of ranks."""
_LOOK_S = 0.25
_SPARE_OPENINGS = 64
"""So many connections beyond two for every line may be under way at the end that is dialled; the oldest makes way."""
_MOST_WARNINGS = 64
_REFUSED_S = 3.0
"""So long a peer's machine may answer without its process, before that is taken to have ended."""
_REDIAL_S = 10.0
"""So long a peer that dials, and has closed its last line, may take to dial again."""


class LinksTransport(Transport):
    """Lines of one rank to its peers."""

    seals = False  # TLS lets nothing through that was changed: the line ends, and another says it again
    one_world = False
    one_ways = 2  # a swap is over when the other end has said that all is there

    def __init__(self, topology: Topology, deadline_s: float | Patience, ways: Ways, lines: int = LINES) -> None:
        """Connects to all peers, each over `lines` lines for payload and one for control.

        `deadline_s` bounds connecting, and how long a peer may show no progress (seconds). Raises SiteLostError naming
        the peer that cannot be reached, or that refuses the connection and why.
        """
        super().__init__(topology, deadline_s)
        self._ways = ways
        sink = new_sink()
        others = [peer for peer in self.peers if peer != topology.rank]
        self._links = {peer: Link(peer, lines, sink) for peer in others}
        self._retries = {
            (peer, number): Retry()
            for peer in others
            for number in range(lines + 1)
            if ways.route(peer, number) is not None
        }
        self._down = dict.fromkeys(self._retries)
        """Those of them that are no lines now."""
        self._openings: dict[Opening, None] = {}
        """The oldest first."""
        self._most_openings = _SPARE_OPENINGS + 2 * sum(len(link.lines) for link in self._links.values())
        self._turns: set[Line] = set()
        self._pace = Pace()
        self._warned: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(ways.fileno(), selectors.EVENT_READ, None)
        self._is_open = True
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        self.rides_out_losses = all(link.fills for link in self._links.values())

    def _connect(self) -> None:
        start = monotonic()
        missing = list(self._links.values())
        with self._waiting.over("connecting", lambda: ", ".join(f"site {self.name(link.peer)}" for link in missing)):
            while missing := [link for link in self._links.values() if not link.is_whole]:
                self._turn()
                for link in missing:
                    if link.gone is not None:
                        raise self.gone(link.peer, monotonic() - start, link.gone)
                    if monotonic() - start > self.deadline_s:
                        raise self._unreached(link.peer, monotonic() - start)

    def _unreached(self, peer: int, waited_s: float) -> SiteLostError:
        causes = [retry.cause for (to, _), retry in self._retries.items() if to == peer]
        cause = causes[0] if causes else "it has not dialled"
        return SiteLostError(
            f"{self.name(self.topology.rank)} could not connect to site {self.name(peer)} within {waited_s:.0f} s "
            f"({cause}).",
            retryable=True,
        )

    def carry(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor], message: Message
    ) -> dict[int, Header]:
        assert self._is_open, "a swap after close()"
        start = monotonic()
        parties = sorted({*sends, *receives})
        links = {peer: self._links[peer] for peer in parties}
        self._pace.begin(_bytes_in(receives), _bytes_in(sends), start)
        for peer, header in headers_for(parties, sends, message, seals=self.seals).items():
            nbytes = receives[peer].nbytes if peer in receives else 0

            def fits(heard: Header, nbytes: int = nbytes) -> bool:
                return heard.identity == message.identity and heard.nbytes == nbytes

            links[peer].begin(header, _bytes_of(sends.get(peer)), _bytes_of(receives.get(peer)), fits, self._pace)
        answers: dict[int, Header] | None = None
        try:
            while answers is None or not all(link.is_over for link in links.values()):
                self._turn()
                for link in links.values():
                    self._require_alive(link, start, heard=answers is not None)
                if answers is None and all(link.pair.header is not None for link in links.values()):
                    if not all(link.has_said for link in links.values()):
                        continue  # so that the others can say the same
                    heard = {peer: link.heard for peer, link in links.items()}
                    answers = self.require_same_message(message.identity, heard, receives)
        finally:
            for link in links.values():
                link.end()
        self.quiet_s = max((link.quiet_s for link in links.values()), default=0.0)
        return answers

    def _require_alive(self, link: Link, start: float, heard: bool) -> None:
        """Raises for a peer that is gone, or shows no progress, while anything is owed between us."""
        now = monotonic()
        if link.gone is None and link.lost_at is None and now - link.progress_at <= self.deadline_s:
            return
        if link.is_over if heard else link.pair.header is not None and link.has_said:
            return
        if link.gone is None and link.lost_at is not None and now - link.lost_at > _REDIAL_S:
            link.gone = "it closed all its lines and has not come back"
        if link.gone is not None:
            if heard and link.pair.is_over:
                return  # nothing is owed any more
            raise self.gone(link.peer, now - start, link.gone)
        if now - link.progress_at > self.deadline_s:
            raise self.silent(link.peer, now - link.progress_at)

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for link in self._links.values():
            link.close()
        for opening in self._openings:
            opening.end()
        self._selector.close()
        self._ways.close()

    # ---- the loop

    def _turn(self) -> None:
        """Lets everything go on that can, or waits a moment for something that can."""
        now = monotonic()
        wait_s = _LOOK_S
        for peer, number in tuple(self._down):
            link, retry = self._links[peer], self._retries[peer, number]
            if link.gone is None:
                if now >= retry.at:
                    self._dial(link, number, retry)
                wait_s = min(wait_s, max(0.0, retry.at - now))
        self._go_on()
        turns, self._turns = self._turns, set()
        if not turns and (pause_s := self._pace.pause_s(now)):
            sleep(pause_s)
        for key, mask in self._selector.select(0 if turns else wait_s):
            what = key.data
            if what is None:
                self._accept_all()
            elif isinstance(what, Opening):
                self._advance_opening(what)
            else:
                link, line = what
                self._advance(link, line, _READY[mask])
        if turns:
            for link in self._links.values():
                for line in [line for line in link.lines if line in turns]:
                    self._advance(link, line, _TURN)
        self._go_on()
        for opening in [opening for opening in self._openings if now > opening.until]:
            self._drop(opening, LineBrokenError("it was not ready in time"))

    def _go_on(self) -> None:
        """Lets go on what waits for news."""
        for link in self._links.values():
            while link.news or link.has_to_say:
                lines = list(link.lines) if link.news else link.lines[:1]
                link.news = link.has_to_say = False
                for line in filter(None, lines):
                    self._advance(link, line, _MORE)

    def _advance(self, link: Link, line: Line, because: tuple[Wait, ...]) -> None:
        """The steps of `line` that wait `because` of something that may have come."""
        if link.lines[line.number] is not line:
            return
        try:
            if line.read_waits in because:
                line.read_waits = next(line.read)
            if line.write_waits in because:
                line.write_waits = next(line.write)
        except LineBrokenError as error:
            self._lose(link, line, error)
            return
        except FrameError as error:
            self._lose(link, line, LineBrokenError(str(error)))
            raise self.damaged(link.peer, str(error)) from error
        waits = (line.read_waits, line.write_waits)
        if Wait.TURN in waits:
            self._turns.add(line)
        interest = _interest(waits)
        if interest != line.interest:
            self._look_for(line.connection, line.interest, interest, (link, line))
            line.interest = interest

    def _look_for(self, connection: socket.socket | Secured, before: int, now: int, what: object) -> None:
        if before and not now:
            self._selector.unregister(connection)
        elif now and not before:
            self._selector.register(connection, now, what)
        elif now != before:
            self._selector.modify(connection, now, what)

    def _lose(self, link: Link, line: Line, error: LineBrokenError) -> None:
        self._look_for(line.connection, line.interest, 0, None)
        link.detach(line, by_peer=error.by_peer)
        if (link.peer, line.number) in self._retries:
            self._down[link.peer, line.number] = None

    # ---- opening lines

    def _dial(self, link: Link, number: int, retry: Retry) -> None:
        route = self._ways.route(link.peer, number)
        assert route is not None
        retry.at = float("inf")  # until this attempt has ended
        raw = socket.socket(route.address[0], socket.SOCK_STREAM)
        prepare(raw)
        opening = Opening(raw, monotonic() + CONNECT_S, link, number)
        opening.steps = dialling(opening, route, self._ways, self._links)
        self._openings[opening] = None
        self._advance_opening(opening)

    def _accept_all(self) -> None:
        try:
            for connection in self._ways.arrived():
                self._accept(connection)
        except ConnectionError as error:
            # Lines that there are go on: at the end of a run a site's first process may be the first to be done. Where
            # one breaks, its peer cannot come back, and is gone after a while.
            self._selector.unregister(self._ways.fileno())
            logger.debug("geo_accel: %s: no more lines can come: %s", self.name(self.topology.rank), error)

    def _accept(self, connection: socket.socket) -> None:
        prepare(connection)
        arrived = [opening for opening in self._openings if opening.link is None]
        if len(arrived) >= self._most_openings:
            self._drop(arrived[0], LineBrokenError("too many came at the same time"))
        opening = Opening(connection, monotonic() + STRANGER_S)
        opening.steps = accepting(opening, self._ways, self._links)
        self._openings[opening] = None
        self._advance_opening(opening)

    def _advance_opening(self, opening: Opening) -> None:
        if opening not in self._openings:
            return
        before = _interest((opening.waits,))
        try:
            opening.waits = next(opening.steps)
        except StopIteration as done:
            self._look_for(opening.connection, before, 0, None)
            del self._openings[opening]
            self._take(*done.value)
            return
        except (LineBrokenError, FrameError) as error:
            self._drop(opening, error)
            return
        self._look_for(opening.connection, before, _interest((opening.waits,)), opening)

    def _take(self, link: Link, line: Line) -> None:
        """A line that both ends have agreed on."""
        old = link.lines[line.number]
        if old is not None:
            self._lose(link, old, LineBrokenError("another took its place"))
        link.attach(line)
        if (link.peer, line.number) in self._retries:
            self._retries[link.peer, line.number] = Retry(at=0.0)
            del self._down[link.peer, line.number]
        self._advance(link, line, (Wait.READABLE, Wait.MORE))

    def _drop(self, opening: Opening, error: Exception) -> None:
        """It comes to nothing; one that was dialled is dialled again."""
        self._look_for(opening.connection, _interest((opening.waits,)), 0, None)
        del self._openings[opening]
        opening.end()
        link = opening.link
        by_peer = isinstance(error, LineBrokenError) and error.by_peer
        if link is None:
            # A member that waited for this end, and has given up and dialled again, leaves its attempts behind.
            self._warn(str(error), logging.DEBUG if by_peer else logging.WARNING)
            return
        if isinstance(error, LineRefusedError):
            raise SiteLostError(f"site {self.name(link.peer)} and this one refuse each other: {error}.")
        now, retry = monotonic(), self._retries[link.peer, opening.number]
        retry.refused_since = (retry.refused_since or now) if by_peer else None
        retry.later(now, str(error))
        # Who has never been there may yet come: its site's port answers before it does.
        is_away = link.has_been_there and not any(link.lines)
        if is_away and retry.refused_since is not None and now - retry.refused_since > _REFUSED_S:
            link.gone = retry.cause

    def _warn(self, cause: str, level: int) -> None:
        """Of somebody who came; once for each cause."""
        if cause in self._warned or len(self._warned) >= _MOST_WARNINGS:
            level = logging.DEBUG
        elif level > logging.DEBUG:
            self._warned.add(cause)
        logger.log(
            level,
            "geo_accel: a connection to %s came to nothing: %s. If it was none of this run's sites, close the port to "
            "strangers; training goes on.",
            self.name(self.topology.rank),
            cause,
        )


_READY = {
    selectors.EVENT_READ: (Wait.READABLE,),
    selectors.EVENT_WRITE: (Wait.WRITABLE,),
    selectors.EVENT_READ | selectors.EVENT_WRITE: (Wait.READABLE, Wait.WRITABLE),
}
_TURN, _MORE = (Wait.TURN,), (Wait.MORE,)


def _bytes_of(tensor: torch.Tensor | None) -> memoryview:
    """A flat CPU tensor's memory."""
    if tensor is None or not tensor.numel():
        return memoryview(b"")
    return tensor.view(torch.uint8).numpy().data.cast("B")


def _bytes_in(tensors: Mapping[int, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _interest(waits: tuple[Wait, ...]) -> int:
    """What a selector looks for."""
    reads = selectors.EVENT_READ if Wait.READABLE in waits else 0
    return reads | (selectors.EVENT_WRITE if Wait.WRITABLE in waits else 0)
