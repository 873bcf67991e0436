# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The one port that a site listens at, and what is behind it: a thread that hands every connection on.

A process of the site is given the connection itself (its file descriptor, over a Unix socket in a folder of our own),
so that nothing passes through here afterwards. Two that cannot reach each other are joined here, byte by byte; their
TLS is end to end, so that the relay learns nothing.
"""

import contextlib
import logging
import os
import selectors
import shutil
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from geo_accel.sites.first_bytes import FIRST_BYTES, FirstBytes, For

logger = logging.getLogger("geo_accel")

_PLACE = struct.Struct("!I")
_MOST_STRANGERS = 256
"""Connections that have not said for whom they are; the oldest makes way."""
_STRANGER_S = 10.0
_MOST_RELAYED = 4096
_HELD_S = 60.0
"""So long one end of a relay waits for the other."""
_RELAY_BYTES = 256 * 1024
_LOOK_S = 1.0

Talk = Callable[[socket.socket], None]
"""Takes a connection for the meeting point, and returns at once."""


class Port:
    """Listens, until it is closed."""

    def __init__(self, host: str, number: int, meeting: Talk | None = None) -> None:
        """`host` "" for all interfaces; `number` 0 for any. Raises ValueError where that cannot be listened at."""
        try:
            # Both families where the machine has them: names of sites may resolve to either.
            dual = not host and socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
            self._listening = socket.create_server((host, number), family=family, backlog=512, dualstack_ipv6=dual)
        except OSError as error:
            where = f"{host or 'all interfaces'}, port {number}"
            raise ValueError(
                f"cannot listen at {where}: {error.strerror}; is another run there? Choose another port."
            ) from error
        self.number: int = self._listening.getsockname()[1]
        self._meeting = meeting
        self._folder = Path(tempfile.mkdtemp(prefix="geo_accel-"))
        self.door = self._folder / "door"
        """Where processes of this machine come for their connections: see `Arrivals`."""
        self._doors = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._doors.bind(str(self.door))
        self._doors.listen(64)
        self._selector = selectors.DefaultSelector()
        self._strangers: dict[socket.socket, tuple[bytearray, float]] = {}
        self._processes: dict[int, socket.socket] = {}
        self._held: dict[tuple[bytes, int], tuple[socket.socket, float]] = {}
        self._relays: set[_Relay] = set()
        self._wake, self._woken = socket.socketpair()
        for one, act in ((self._listening, self._accept), (self._doors, self._let_in), (self._woken, lambda: None)):
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ, act)
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="geo_accel port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all that goes through here; what was handed on goes on."""
        self._ends = True
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")
        self._thread.join()

    def _run(self) -> None:
        while not self._ends:
            for key, mask in self._selector.select(_LOOK_S):
                try:
                    key.data(mask) if isinstance(key.fileobj, int) else key.data()
                except OSError as error:
                    logger.debug("geo_accel port: %s", error)
            self._forget(monotonic())
        for one in (self._listening, self._doors, self._woken, self._wake, *self._strangers):
            one.close()
        for one in self._processes.values():
            one.close()
        for one, _ in self._held.values():
            one.close()
        for relay in list(self._relays):
            relay.close()
        self._selector.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        connection.setblocking(False)
        if len(self._strangers) >= _MOST_STRANGERS:
            self._drop(next(iter(self._strangers)))
        self._strangers[connection] = (bytearray(), monotonic() + _STRANGER_S)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._listen_to(connection))

    def _listen_to(self, connection: socket.socket) -> None:
        said, _ = self._strangers[connection]
        try:
            data = connection.recv(FIRST_BYTES - len(said))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        said += data
        if not data:
            self._drop(connection)
        elif len(said) == FIRST_BYTES:
            self._selector.unregister(connection)
            del self._strangers[connection]
            self._hand_on(connection, FirstBytes.from_bytes(bytes(said)))

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._strangers[connection]
        connection.close()

    def _hand_on(self, connection: socket.socket, first: FirstBytes | None) -> None:
        """To whom it is for; one that is for nobody here is closed, and whoever dialled may try again."""
        if first is not None and first.whom == For.MEETING and self._meeting is not None:
            connection.setblocking(True)
            self._meeting(connection)
            return
        if first is not None and first.whom == For.RELAY:
            self._relay(connection, first)
            return
        if first is not None and first.whom == For.PROCESS and first.number in self._processes:
            try:
                socket.send_fds(self._processes[first.number], [b"c"], [connection.fileno()])
            except OSError as error:  # it has ended, or has more waiting than it takes
                logger.debug("geo_accel port: process %d: %s", first.number, error)
        connection.close()

    def _let_in(self) -> None:
        """A process of this machine comes to its door."""
        process, _ = self._doors.accept()
        process.settimeout(1.0)
        try:
            (place,) = _PLACE.unpack(process.recv(_PLACE.size, socket.MSG_WAITALL))
        except (OSError, struct.error):
            process.close()
            return
        process.setblocking(False)
        self._processes[place] = process
        self._selector.register(process, selectors.EVENT_READ, lambda: self._let_out(place, process))

    def _let_out(self, place: int, process: socket.socket) -> None:
        """It says nothing more: it has ended."""
        with contextlib.suppress(OSError):
            if process.recv(1):
                return
        self._selector.unregister(process)
        process.close()
        if self._processes.get(place) is process:
            del self._processes[place]

    def _relay(self, connection: socket.socket, first: FirstBytes) -> None:
        """Joins it with the other end of its line, as soon as that is there."""
        key, key_of_other = (first.token, first.number), (first.token, first.number ^ 1)
        if key in self._held:  # it has given up the last one, and dials again
            self._held.pop(key)[0].close()
        other = self._held.pop(key_of_other, None)
        if other is None and len(self._held) + len(self._relays) < _MOST_RELAYED:
            self._held[key] = (connection, monotonic() + _HELD_S)
        elif other is None:
            connection.close()
        else:
            self._relays.add(_Relay(self._selector, connection, other[0], self._relays.discard))

    def _forget(self, now: float) -> None:
        for connection in [one for one, (_, until) in self._strangers.items() if now > until]:
            self._drop(connection)
        for key in [key for key, (_, until) in self._held.items() if now > until]:
            self._held.pop(key)[0].close()


class _Relay:
    """Two connections, and what goes from each to the other. Whichever ends, both do."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        one: socket.socket,
        other: socket.socket,
        ended: Callable[["_Relay"], None],
    ) -> None:
        self._selector, self._ended = selector, ended
        self._to = {one: other, other: one}
        self._waiting: dict[socket.socket, deque[bytes]] = {one: deque(), other: deque()}
        """By receiver."""
        self._interest = {one: 0, other: 0}
        self._is_open = True
        for connection in self._to:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError, AttributeError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        self._look()

    def close(self) -> None:
        self._is_open = False
        for connection, interest in self._interest.items():
            if interest:
                self._selector.unregister(connection.fileno())
            connection.close()
        self._ended(self)

    def _act(self, connection: socket.socket, mask: int) -> None:
        if not self._is_open:  # the other end has just ended it
            return
        try:
            if mask & selectors.EVENT_READ:
                data = connection.recv(_RELAY_BYTES)
                if not data:
                    self.close()
                    return
                self._waiting[self._to[connection]].append(data)
            for receiver, waiting in self._waiting.items():
                while waiting:
                    sent = receiver.send(waiting[0])
                    if sent < len(waiting[0]):
                        waiting[0] = waiting[0][sent:]
                        break
                    waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._look()

    def _look(self) -> None:
        for connection, other in self._to.items():
            # Nothing more is read from whoever sends faster than the other takes.
            reads = 0 if self._waiting[other] else selectors.EVENT_READ
            wanted = reads | (selectors.EVENT_WRITE if self._waiting[connection] else 0)
            before, self._interest[connection] = self._interest[connection], wanted
            act = lambda mask, connection=connection: self._act(connection, mask)  # noqa: E731
            if before and wanted and before != wanted:
                self._selector.modify(connection.fileno(), wanted, act)
            elif wanted and not before:
                self._selector.register(connection.fileno(), wanted, act)
            elif before and not wanted:
                self._selector.unregister(connection.fileno())


class Arrivals:
    """What a process of the site takes from its port; without a port nothing arrives."""

    def __init__(self, door: str | os.PathLike | None, place: int) -> None:
        """`place` is its rank inside the site."""
        self._door, self._far = socket.socketpair() if door is None else (socket.socket(socket.AF_UNIX), None)
        if door is not None:
            self._door.connect(str(door))
            self._door.sendall(_PLACE.pack(place))
        self._door.setblocking(False)

    def fileno(self) -> int:
        return self._door.fileno()

    def take(self) -> list[socket.socket]:
        """Connections that have arrived since the last call."""
        taken = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._door, 1, 1)
            except BlockingIOError:
                return taken
            taken += [socket.socket(fileno=fd) for fd in fds]
            if not data:
                raise ConnectionError("the site's first process, which listens for all, has ended")

    def close(self) -> None:
        self._door.close()
        if self._far is not None:
            self._far.close()
