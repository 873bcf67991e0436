# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A transport between sites that are jobs of their own: TLS over several TCP connections per pair of ranks.

One loop runs all lines, on the thread that swaps and only while it does: between swaps bytes wait in the kernel, and
whoever sends too much waits. It cannot deadlock: a step that cannot go on gives way to all others, what is said on
control lines needs no payload to move, and no rank waits for anything but bytes that a peer in the same swap owes it.
"""

import contextlib
import logging
import selectors
import socket
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from time import monotonic

import torch

from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.identity import Header, Message
from geo_accel.transport.links.frames import Frame, FrameError, Kind
from geo_accel.transport.links.hello import Hello
from geo_accel.transport.links.lines import (
    LineBrokenError,
    LineRefusedError,
    Wait,
    connecting,
    greeted,
    greeting,
    prepare,
    sending,
    shaking_hands,
)
from geo_accel.transport.links.link import CONTROL, Line, Link, new_sink
from geo_accel.transport.links.ways import Route, Ways
from geo_accel.transport.seal import headers_for

logger = logging.getLogger("geo_accel")

LINES = 16
"""For payload, per pair of ranks."""
_LOOK_S = 0.25
_OPENING_S = 10.0
"""What connecting, TLS and hello may take together once the other end is there; then the line is dialled anew."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.05, 2.0
_REFUSED_S = 3.0
"""So long a peer's machine may answer without its process, before that is taken to have ended."""
_REDIAL_S = 10.0
"""So long a peer that dials, and has closed its last line, may take to dial again."""


@dataclass(slots=True, eq=False)
class _Opening:
    """A connection that is no line yet."""

    connection: socket.socket
    """With TLS around it as soon as that begins; its file descriptor stays the same."""
    until: float
    link: Link | None = None
    """That it was dialled for, with `number`; None where it was accepted."""
    number: int = 0
    waits: Wait = Wait.MORE
    steps: Generator[Wait, None, tuple[Link, Line]] = field(init=False)


@dataclass(slots=True)
class _Retry:
    """When a line is dialled, and what became of it before."""

    at: float = 0.0
    pause_s: float = _FIRST_RETRY_S
    refused_since: float | None = None
    cause: str = "nobody has answered yet"


class LinksTransport(Transport):
    """Lines of one rank to its peers."""

    one_world = False
    one_ways = 2  # a swap is over when the other end has said that all is there

    def __init__(self, topology: Topology, deadline_s: float, ways: Ways, lines: int = LINES) -> None:
        """Connects to all peers, each over `lines` lines for payload and one for control.

        `deadline_s` bounds connecting, and how long a peer may show no progress (seconds). Raises SiteLostError naming
        the peer that cannot be reached, or that refuses the connection and why.
        """
        super().__init__(topology, deadline_s)
        self._ways = ways
        self._selector = selectors.DefaultSelector()
        self._selector.register(ways.fileno(), selectors.EVENT_READ, None)
        sink = new_sink()
        others = [peer for peer in self.peers if peer != topology.rank]
        self._links = {peer: Link(peer, lines, sink) for peer in others}
        self._retries = {
            (peer, number): _Retry()
            for peer in others
            for number in range(lines + 1)
            if ways.route(peer, number) is not None
        }
        self._openings: set[_Opening] = set()
        self._turns: set[Line] = set()
        self._is_open = True
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        start = monotonic()
        missing = list(self._links.values())
        with self._waiting.over("connecting", lambda: ", ".join(f"site {self.name(link.peer)}" for link in missing)):
            while missing := [link for link in self._links.values() if not link.is_whole]:
                self._turn()
                for link in missing:
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
        for peer, header in headers_for(parties, sends, message).items():
            nbytes = receives[peer].nbytes if peer in receives else 0

            def fits(heard: Header, nbytes: int = nbytes) -> bool:
                return heard.identity == message.identity and heard.nbytes == nbytes

            links[peer].begin(header, _bytes_of(sends.get(peer)), _bytes_of(receives.get(peer)), fits)
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
        return answers

    def _require_alive(self, link: Link, start: float, heard: bool) -> None:
        """Raises for a peer that is gone, or shows no progress, while anything is owed between us."""
        if link.is_over if heard else link.pair.header is not None and link.has_said:
            return
        now = monotonic()
        if link.bye is not None:
            raise self.gone(link.peer, now - start, link.bye)
        for (peer, _), retry in self._retries.items():
            if peer == link.peer and retry.refused_since is not None and now - retry.refused_since > _REFUSED_S:
                raise self.gone(link.peer, now - start, retry.cause)
        if link.lost_at is not None and now - link.lost_at > _REDIAL_S:
            raise self.gone(link.peer, now - start, "it closed all its lines and has not come back")
        if now - link.progress_at > self.deadline_s:
            raise self.silent(link.peer, now - link.progress_at)

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for link in self._links.values():
            control = link.lines[CONTROL]
            if control is not None:
                control.queue.append(Frame(Kind.BYE, body=b"it was closed").to_bytes())
                with contextlib.suppress(LineBrokenError):
                    next(control.write)
            for line in filter(None, link.lines):
                line.connection.close()
        for opening in self._openings:
            opening.connection.close()
        self._selector.close()
        self._ways.close()

    # ---- the loop

    def _turn(self) -> None:
        """Lets everything go on that can, or waits a moment for something that can."""
        now = monotonic()
        for (peer, number), retry in self._retries.items():
            if self._links[peer].lines[number] is None and now >= retry.at:
                self._dial(self._links[peer], number, retry)
        self._go_on()
        turns, self._turns = self._turns, set()
        for key, _ in self._selector.select(0 if turns else _LOOK_S):
            what = key.data
            if what is None:
                for connection in self._ways.arrived():
                    self._accept(connection)
            elif isinstance(what, _Opening):
                self._advance_opening(what)
            else:
                self._advance(*what, Wait.READABLE, Wait.WRITABLE)
        for link in self._links.values():
            for line in [line for line in link.lines if line in turns]:
                self._advance(link, line, Wait.TURN)
        self._go_on()
        for opening in [opening for opening in self._openings if monotonic() > opening.until]:
            self._drop(opening, LineBrokenError("it was not ready in time"))

    def _go_on(self) -> None:
        """Lets go on what waits for news."""
        for link in self._links.values():
            while link.news:
                link.news = False
                for line in filter(None, list(link.lines)):
                    self._advance(link, line, Wait.MORE)

    def _advance(self, link: Link, line: Line, *because: Wait) -> None:
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
        self._look_for(line.connection, line.interest, _interest(waits), (link, line))
        line.interest = _interest(waits)

    def _look_for(self, connection: socket.socket, before: int, now: int, what: object) -> None:
        if before and not now:
            self._selector.unregister(connection)
        elif now and not before:
            self._selector.register(connection, now, what)
        elif now != before:
            self._selector.modify(connection, now, what)

    def _lose(self, link: Link, line: Line, error: LineBrokenError) -> None:
        self._look_for(line.connection, line.interest, 0, None)
        link.detach(line, by_peer=error.by_peer)

    # ---- opening lines

    def _dial(self, link: Link, number: int, retry: _Retry) -> None:
        route = self._ways.route(link.peer, number)
        assert route is not None
        retry.at = float("inf")  # until this attempt has ended
        raw = socket.socket(route.address[0], socket.SOCK_STREAM)
        prepare(raw)
        opening = _Opening(raw, monotonic() + _OPENING_S, link, number)
        opening.steps = self._dialling(opening, route)
        self._openings.add(opening)
        self._advance_opening(opening)

    def _accept(self, connection: socket.socket) -> None:
        prepare(connection)
        opening = _Opening(connection, monotonic() + _OPENING_S)
        opening.steps = self._accepting(opening)
        self._openings.add(opening)
        self._advance_opening(opening)

    def _advance_opening(self, opening: _Opening) -> None:
        before = _interest((opening.waits,))
        try:
            opening.waits = next(opening.steps)
        except StopIteration as done:
            self._look_for(opening.connection, before, 0, None)
            self._openings.discard(opening)
            link, line = done.value
            old = link.lines[line.number]
            if old is not None:
                self._lose(link, old, LineBrokenError("another took its place"))
            link.attach(line)
            if (link.peer, line.number) in self._retries:
                self._retries[link.peer, line.number] = _Retry(at=0.0)
            self._advance(link, line, Wait.READABLE, Wait.MORE)
            return
        except (LineBrokenError, FrameError) as error:
            opening.waits = Wait.MORE
            self._look_for(opening.connection, before, 0, None)
            self._drop(opening, error)
            return
        self._look_for(opening.connection, before, _interest((opening.waits,)), opening)

    def _drop(self, opening: _Opening, error: Exception) -> None:
        """It comes to nothing; one that was dialled is dialled again."""
        self._look_for(opening.connection, _interest((opening.waits,)), 0, None)
        self._openings.discard(opening)
        opening.steps.close()
        opening.connection.close()
        link = opening.link
        if link is None:
            logger.warning("geo_accel: a connection to %s came to nothing: %s", self.topology.site.name, error)
            return
        if isinstance(error, LineRefusedError):
            raise SiteLostError(f"site {self.name(link.peer)} and this one refuse each other: {error}.")
        retry = self._retries[link.peer, opening.number]
        by_peer = isinstance(error, LineBrokenError) and error.by_peer
        retry.refused_since = (retry.refused_since or monotonic()) if by_peer else None
        retry.at, retry.pause_s = monotonic() + retry.pause_s, min(2 * retry.pause_s, _LONGEST_RETRY_S)
        retry.cause = str(error)

    def _dialling(self, opening: _Opening, route: Route) -> Generator[Wait, None, tuple[Link, Line]]:
        link, number = opening.link, opening.number
        assert link is not None
        yield from connecting(opening.connection, route.address[1])
        yield from sending(opening.connection, route.first_bytes)
        if route.answers:
            return (yield from self._accepting(opening))
        connection = self._ways.client.wrap_socket(opening.connection, do_handshake_on_connect=False)
        opening.connection = connection
        yield from shaking_hands(connection)
        problem = self._ways.problem_with(connection, link.peer)
        if problem is not None:
            raise LineRefusedError(problem)
        yield from greeting(connection, self._ways.hello(link.peer, number))
        return link, Line(number, connection)

    def _accepting(self, opening: _Opening) -> Generator[Wait, None, tuple[Link, Line]]:
        raw = opening.connection
        connection = self._ways.server.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        opening.connection = connection
        yield from shaking_hands(connection)

        def problem_with(hello: Hello) -> str | None:
            mine = self._ways.hello(hello.sender, hello.line)
            if problem := hello.problem_for(mine, frozenset(self._links)):
                return problem
            if opening.link is not None and (opening.link.peer, opening.number) != (hello.sender, hello.line):
                return f"line {hello.line} came where line {opening.number} was expected"
            if hello.line >= len(self._links[hello.sender].lines):
                return f"there is no line {hello.line}"
            return self._ways.problem_with(connection, hello.sender)

        hello = yield from greeted(connection, problem_with)
        return self._links[hello.sender], Line(hello.line, connection)


def _bytes_of(tensor: torch.Tensor | None) -> memoryview:
    """A flat CPU tensor's memory."""
    if tensor is None or not tensor.numel():
        return memoryview(b"")
    return tensor.view(torch.uint8).numpy().data.cast("B")


def _interest(waits: tuple[Wait, ...]) -> int:
    """What a selector looks for."""
    reads = selectors.EVENT_READ if Wait.READABLE in waits else 0
    return reads | (selectors.EVENT_WRITE if Wait.WRITABLE in waits else 0)
