# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""TLS over sockets that do not block, as steps of one loop: each step yields what it waits for.

One thread runs all lines of a rank, inside its swaps. So no line needs a lock, and a training thread shares its
processor with one thread at most.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum

from geo_accel.transport.links.frames import HEAD_BYTES, Frame, FrameError, Head, Kind
from geo_accel.transport.links.hello import Hello
from geo_accel.transport.links.secured import Secured


class Wait(Enum):
    """What a step waits for."""

    READABLE = 1
    WRITABLE = 2
    MORE = 3
    """Something that the loop itself brings."""
    TURN = 4
    """Others to have theirs: TLS may hold bytes that no socket shows."""


Steps = Generator[Wait, None, None]

_BBR = b"bbr"
_UNSENT = 128 * 1024
"""Bytes that the kernel takes of a line beyond what is on its way."""
_UNSENT_WHERE_ONE_FILLS = 384 * 1024
"""The same of a line that fills the network, which is looked after less often (`pace`)."""


@dataclass(slots=True)
class Rest:
    """What has still to leave or to be filled. Whoever exchanges it meanwhile has the next bytes go there."""

    left: memoryview
    moves: Callable[[int], None] = lambda count: None
    """Called with the bytes by which it gets shorter."""


class LineBrokenError(Exception):
    """The connection ended or the other end said what it must not."""

    def __init__(self, cause: str, *, by_peer: bool = False) -> None:
        """`by_peer`: the other end has closed or reset it, so its machine is there."""
        super().__init__(cause)
        self.by_peer = by_peer


class LineRefusedError(LineBrokenError):
    """The other end does not take this line, and says why."""


def broken(error: OSError) -> LineBrokenError:
    """What ended a line, from what the socket says of it."""
    words = error.strerror or str(error) or type(error).__name__
    reason = str(getattr(error, "reason", None) or "")
    if "ALERT" in reason and ("CERT" in reason or "UNKNOWN_CA" in reason):
        return LineRefusedError(f"it does not take this end's certificate ({reason.lower()})")
    by_peer = isinstance(error, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return LineBrokenError(words, by_peer=by_peer)


def connecting(connection: socket.socket, address: tuple) -> Steps:
    """Connects to `address`, as `socket.getaddrinfo` gives it."""
    try:
        connection.connect(address)
    except BlockingIOError:
        yield Wait.WRITABLE
    except OSError as error:
        raise broken(error) from error
    failed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failed:
        raise broken(OSError(failed, os.strerror(failed)))
    # A route that names a congestion control replaces, on connecting, what the socket had.
    _ask_for_bbr(connection)


def secured(
    context: ssl.SSLContext, connection: socket.socket, *, server: bool = False, first: bytes = b""
) -> Secured:
    """TLS around `connection`, before anything of it is said; `first` goes before that."""
    try:
        return Secured(context, connection, server=server, first=first)
    except OSError as error:  # it was reset meanwhile
        raise broken(error) from error


def shaking_hands(connection: Secured) -> Steps:
    """TLS's handshake."""
    while True:
        try:
            connection.do_handshake()
            return
        except ssl.SSLWantReadError:
            yield Wait.READABLE
        except BlockingIOError:
            yield Wait.WRITABLE
        except ssl.SSLCertVerificationError as error:
            raise LineRefusedError(f"its certificate is refused: {error.verify_message}") from error
        except OSError as error:
            raise broken(error) from error


def sending(connection: Secured, rest: Rest) -> Steps:
    """All that is left, until the system has it."""
    while rest.left or not connection.has_left:
        count = 0
        try:
            if rest.left:
                count = connection.send(rest.left)
            else:
                connection.flush()
        except BlockingIOError:
            yield Wait.WRITABLE
            continue
        except OSError as error:
            raise broken(error) from error
        rest.left = rest.left[count:]
        rest.moves(count)


def saying(connection: Secured, data: bytes) -> Steps:
    """All of `data`, which nobody exchanges meanwhile."""
    yield from sending(connection, Rest(memoryview(data)))


def receiving(connection: Secured, rest: Rest) -> Steps:
    """As many bytes as `rest` has room for."""
    while rest.left:
        count = yield from receiving_some(connection, rest)
        rest.left = rest.left[count:]
        rest.moves(count)


def receiving_some(connection: Secured, rest: Rest) -> Generator[Wait, None, int]:
    """At least one byte into `rest`, which stays as it is; how many."""
    while True:
        try:
            count = connection.recv_into(rest.left)
        except ssl.SSLWantReadError:
            yield Wait.READABLE
            continue
        except OSError as error:
            raise broken(error) from error
        if count == 0:
            raise LineBrokenError("it was closed at the other end", by_peer=True)
        return count


def receiving_frame(connection: Secured) -> Generator[Wait, None, Frame]:
    """One small frame."""
    head_room = bytearray(HEAD_BYTES)
    yield from receiving(connection, Rest(memoryview(head_room)))
    head = Head.from_bytes(head_room)
    if head.kind == Kind.CHUNK:
        raise FrameError("payload came where none is expected")
    body = bytearray(head.length)
    yield from receiving(connection, Rest(memoryview(body)))
    return Frame(head.kind, head.transfer, head.chunk, bytes(body))


def greeting(connection: Secured, hello: Hello) -> Steps:
    """Says hello and hears the answer. Raises LineRefusedError with the other end's words."""
    yield from saying(connection, Frame(Kind.HELLO, body=hello.to_bytes()).to_bytes())
    answer = yield from receiving_frame(connection)
    if answer.kind == Kind.REFUSED:
        raise LineRefusedError(answer.words, by_peer=True)
    if answer.kind != Kind.WELCOME:
        raise FrameError(f"a {answer.kind.name} came in answer to a hello")


def greeted(connection: Secured, problem_with: Callable[[Hello], str | None]) -> Generator[Wait, None, Hello]:
    """Hears a hello and answers it. Raises LineRefusedError for a `problem_with` it, which is said first."""
    frame = yield from receiving_frame(connection)
    if frame.kind != Kind.HELLO:
        raise FrameError(f"a {frame.kind.name} came where a hello is expected")
    hello = Hello.from_bytes(frame.body)
    problem = problem_with(hello)
    if problem is not None:
        yield from saying(connection, Frame.of_words(Kind.REFUSED, problem).to_bytes())
        raise LineRefusedError(problem)
    yield from saying(connection, Frame(Kind.WELCOME).to_bytes())
    return hello


def prepare(connection: socket.socket) -> None:
    """Sets what all lines want of TCP, as far as the kernel grants it."""
    connection.setblocking(False)
    options: list[tuple[str, int, int]] = [
        ("TCP_NODELAY", socket.IPPROTO_TCP, 1),
        ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 15),
        ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 5),
        ("TCP_KEEPCNT", socket.IPPROTO_TCP, 4),
        ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ]
    for name, level, value in options:
        with contextlib.suppress(OSError, AttributeError):
            connection.setsockopt(level, getattr(socket, name), value)
    _ask_for_bbr(connection)


def _ask_for_bbr(connection: socket.socket) -> None:
    # What waits in the kernel can go over no other line.
    unsent = _UNSENT
    # Lost packets say little of a long line's rate; BBR goes by what arrives.
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _BBR)
        unsent = _UNSENT_WHERE_ONE_FILLS
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent)


def goes_by_what_arrives(connection: Secured) -> bool:
    """Whether the kernel has granted it BBR, for which a lost packet is no reason to send less."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == _BBR
    except (OSError, AttributeError):
        return False
