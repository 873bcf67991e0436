# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Connections that are no lines yet: dialled or accepted, TLS, who is who. Steps of the transport's loop."""

import socket
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from time import monotonic

from geo_accel.transport.links.hello import Hello
from geo_accel.transport.links.lines import (
    LineRefusedError,
    Wait,
    connecting,
    greeted,
    greeting,
    secured,
    shaking_hands,
)
from geo_accel.transport.links.link import Line, Link
from geo_accel.transport.links.ways import Route, Ways

CONNECT_S = 10.0
"""What connecting may take; then the line is dialled anew."""
_ANSWER_S = 45.0
"""What TLS and hello may take at the end that dials. The other end may have to come to its swap first."""
STRANGER_S = 10.0
"""What they may take at the end that is dialled."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.05, 2.0

Taking = Generator[Wait, None, tuple[Link, Line]]
"""Steps that come to a line."""


@dataclass(slots=True, eq=False)
class Opening:
    """A connection that is no line yet."""

    connection: socket.socket
    until: float
    link: Link | None = None
    """That it was dialled for, with `number`; None where it was accepted."""
    number: int = 0
    waits: Wait = Wait.MORE
    steps: Taking = field(init=False)

    def end(self) -> None:
        self.steps.close()
        self.connection.close()


@dataclass(slots=True)
class Retry:
    """When a line is dialled, and what became of it before."""

    at: float = 0.0
    pause_s: float = _FIRST_RETRY_S
    refused_since: float | None = None
    """When the other end first closed an attempt, of those that it has closed in a row."""
    cause: str = "nobody has answered yet"

    def later(self, now: float, cause: str) -> None:
        """An attempt came to nothing."""
        self.at, self.pause_s, self.cause = now + self.pause_s, min(2 * self.pause_s, _LONGEST_RETRY_S), cause


def dialling(opening: Opening, route: Route, ways: Ways, links: Mapping[int, Link]) -> Taking:
    """The steps of a line that this end dials."""
    link, number = opening.link, opening.number
    assert link is not None
    yield from connecting(opening.connection, route.address[1])
    opening.until = monotonic() + _ANSWER_S
    if route.answers:
        return (yield from accepting(opening, ways, links, route.first_bytes))
    connection = secured(ways.client, opening.connection, first=route.first_bytes)
    yield from shaking_hands(connection)
    problem = ways.problem_with(connection.tls, link.peer)
    if problem is not None:
        raise LineRefusedError(problem)
    yield from greeting(connection, ways.hello(link.peer, number))
    return link, Line(number, connection)


def accepting(opening: Opening, ways: Ways, links: Mapping[int, Link], first: bytes = b"") -> Taking:
    """Those of a line of which this end is TLS's server, to any peer of `links`; `first` is said before."""
    connection = secured(ways.server, opening.connection, server=True, first=first)
    yield from shaking_hands(connection)

    def problem_with(hello: Hello) -> str | None:
        mine = ways.hello(hello.sender, hello.line)
        if problem := hello.problem_for(mine, frozenset(links)):
            return problem
        if opening.link is not None and (opening.link.peer, opening.number) != (hello.sender, hello.line):
            return f"line {hello.line} came where line {opening.number} was expected"
        if hello.line >= len(links[hello.sender].lines):
            return f"there is no line {hello.line}"
        return ways.problem_with(connection.tls, hello.sender)

    hello = yield from greeted(connection, problem_with)
    return links[hello.sender], Line(hello.line, connection)
