# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where two that cannot reach each other are joined, byte by byte. Their TLS is end to end: a relay learns nothing."""

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic

from geo_accel.sites.first_bytes import FirstBytes
from geo_accel.transport.links.lines import prepare

_MOST_HELD = 256
"""Ends that wait for their other end; the oldest makes way."""
_MOST_RELAYED = 4096
_HELD_S = 60.0
"""So long one end waits for the other."""
_HALF_S = 10.0
"""So long the one goes on after the other has ended."""
_RELAY_BYTES = 256 * 1024

_Line = tuple[bytes, int]
"""Token of the pair, number of the line."""


class Relays:
    """All of one port. Not for several threads."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        """`selector`: whose keys' data are called with what is ready."""
        self._selector = selector
        self._held: dict[tuple[_Line, int], tuple[socket.socket, float]] = {}
        self._joined: dict[_Line, _Relay] = {}

    def come(self, connection: socket.socket, first: FirstBytes) -> None:
        """One end, which is joined to the other or held until that comes. The same end again takes its own place."""
        line = (first.token, first.number)
        if line in self._joined:  # what broke for the one is over for both, though the other may not know
            self._joined[line].close()
        other, _ = self._held.pop((line, 1 - first.side), (None, 0.0))
        before, _ = self._held.pop((line, first.side), (None, 0.0))
        if before is not None:
            before.close()
        if other is not None and len(self._joined) < _MOST_RELAYED:
            self._joined[line] = _Relay(self._selector, connection, other, lambda: self._joined.pop(line, None))
            return
        if other is not None:
            other.close()
        if len(self._held) >= _MOST_HELD:
            self._held.pop(next(iter(self._held)))[0].close()
        self._held[line, first.side] = (connection, monotonic() + _HELD_S)

    def forget(self, now: float) -> None:
        """Closes what has waited for too long."""
        for key in [key for key, (_, until) in self._held.items() if now > until]:
            self._held.pop(key)[0].close()
        for relay in [relay for relay in self._joined.values() if now > relay.until]:
            relay.close()

    def close(self) -> None:
        for connection, _ in self._held.values():
            connection.close()
        self._held.clear()
        for relay in list(self._joined.values()):
            relay.close()


class _Relay:
    """Two connections, and what goes from each to the other. Whichever ends, both do, once all is said."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        one: socket.socket,
        other: socket.socket,
        ended: Callable[[], object],
    ) -> None:
        self._selector, self._ended = selector, ended
        self.until = float("inf")
        self._to = {one: other, other: one}
        self._waiting: dict[socket.socket, deque[memoryview]] = {one: deque(), other: deque()}
        """By receiver."""
        self._silent: set[socket.socket] = set()
        """From whom nothing more comes."""
        self._interest = {one: 0, other: 0}
        self._is_open = True
        for connection in self._to:
            prepare(connection)
        self._look()

    def close(self) -> None:
        self._is_open = False
        for connection, interest in self._interest.items():
            if interest:
                self._selector.unregister(connection)
            connection.close()
        self._ended()

    def _act(self, connection: socket.socket, mask: int) -> None:
        if not self._is_open:  # the other end has just ended it
            return
        try:
            if mask & selectors.EVENT_READ:
                self._read(connection)
            for receiver in self._to:
                with contextlib.suppress(BlockingIOError):
                    self._write(receiver)
        except OSError:
            self.close()
            return
        if len(self._silent) == len(self._to):
            self.close()
            return
        self._look()

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_RELAY_BYTES)
        except BlockingIOError:
            return
        if data:
            self._waiting[self._to[connection]].append(memoryview(data))
        else:  # nothing waits for the other end, else nothing would have been read
            self._silent.add(connection)
            self.until = monotonic() + _HALF_S
            self._to[connection].shutdown(socket.SHUT_WR)

    def _write(self, receiver: socket.socket) -> None:
        waiting = self._waiting[receiver]
        while waiting:
            waiting[0] = waiting[0][receiver.send(waiting[0]) :]
            if not waiting[0]:
                waiting.popleft()

    def _look(self) -> None:
        for connection, other in self._to.items():
            # Nothing more is read from whoever sends faster than the other takes.
            reads = 0 if self._waiting[other] or connection in self._silent else selectors.EVENT_READ
            wanted = reads | (selectors.EVENT_WRITE if self._waiting[connection] else 0)
            before, self._interest[connection] = self._interest[connection], wanted
            act = lambda mask, connection=connection: self._act(connection, mask)  # noqa: E731
            if before and wanted and before != wanted:
                self._selector.modify(connection, wanted, act)
            elif wanted and not before:
                self._selector.register(connection, wanted, act)
            elif before and not wanted:
                self._selector.unregister(connection)
