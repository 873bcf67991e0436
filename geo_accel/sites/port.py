# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The one port that a site listens at, and what is behind it: a thread that hands every connection on.

A process of the site is given the connection itself (its file descriptor, over a Unix socket in a folder of our own),
so that nothing passes through here afterwards. Two that cannot reach each other are joined here: see `relay.py`.
"""

import contextlib
import errno
import logging
import os
import selectors
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from geo_accel.sites.first_bytes import FIRST_BYTES, FirstBytes, For
from geo_accel.sites.relay import Relays

logger = logging.getLogger("geo_accel")

_NUMBER = struct.Struct("!I")
_MOST_STRANGERS = 256
"""Connections that have not said for whom they are; the oldest makes way."""
_STRANGER_S = 10.0
_LOOK_S = 1.0
_FULL_S = 0.05
_LONGEST_DOOR = 100
"""Bytes; a Unix socket's path has 107 at most."""

Talk = Callable[[socket.socket], None]
"""Takes a connection for the meeting point, and returns at once."""


class Port:
    """Listens, until it is closed."""

    def __init__(
        self,
        host: str,
        number: int,
        meeting: Talk | None = None,
        relays: Callable[[bytes], bool] | None = None,
    ) -> None:
        """`host` "" for all interfaces; `number` 0 for any. `relays` says which tokens are joined, by default none.

        Raises ValueError where that cannot be listened at.
        """
        self._listening = _listen(host, number)
        self.number: int = self._listening.getsockname()[1]
        self._meeting, self._relays_whom = meeting, relays
        self._folder = _short_folder()
        self.door = self._folder / "door"
        """Where processes of this machine come for their connections: see `Arrivals`."""
        self._doors = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._doors.bind(str(self.door))
        self._doors.listen(64)
        self._selector = selectors.DefaultSelector()
        self._strangers: dict[socket.socket, tuple[bytearray, float]] = {}
        self._processes: dict[int, socket.socket] = {}
        self._relays = Relays(self._selector)
        self._wake, self._woken = socket.socketpair()
        for one, act in ((self._listening, self._accept), (self._doors, self._let_in), (self._woken, lambda _: None)):
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
        look_at = monotonic() + _LOOK_S
        while not self._ends:
            for key, mask in self._selector.select(_LOOK_S):
                try:
                    key.data(mask)
                except OSError as error:
                    logger.debug("geo_accel port: %s", error)
            if monotonic() >= look_at:
                self._forget(monotonic())
                look_at = monotonic() + _LOOK_S
        for one in (self._listening, self._doors, self._woken, self._wake, *self._strangers):
            one.close()
        for one in self._processes.values():
            one.close()
        self._relays.close()
        self._selector.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self, mask: int) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # no more files: strangers are the least of them
                if self._strangers:
                    self._drop(next(iter(self._strangers)))
                sleep(_FULL_S)  # whoever knocks is still there, so that this comes again at once
            raise
        connection.setblocking(False)
        if len(self._strangers) >= _MOST_STRANGERS:
            self._drop(next(iter(self._strangers)))
        self._strangers[connection] = (bytearray(), monotonic() + _STRANGER_S)
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._listen_to(connection))

    def _listen_to(self, connection: socket.socket) -> None:
        if connection not in self._strangers:  # it has just been dropped for another
            return
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
        if first is not None and first.whom == For.RELAY and self._relays_whom and self._relays_whom(first.token):
            self._relays.come(connection, first)
            return
        if first is not None and first.whom == For.PROCESS and first.number in self._processes:
            try:
                socket.send_fds(self._processes[first.number], [b"c"], [connection.fileno()])
            except OSError as error:  # it has ended, or has more waiting than it takes
                logger.debug("geo_accel port: process %d: %s", first.number, error)
        connection.close()

    def _let_in(self, mask: int) -> None:
        """A process of this machine comes to its door."""
        process, _ = self._doors.accept()
        process.settimeout(1.0)
        try:
            (place,) = _NUMBER.unpack(process.recv(_NUMBER.size, socket.MSG_WAITALL))
        except (OSError, struct.error):
            process.close()
            return
        process.setblocking(False)
        self._processes[place] = process
        self._selector.register(process, selectors.EVENT_READ, lambda _: self._let_out(place, process))

    def _let_out(self, place: int, process: socket.socket) -> None:
        """It says nothing more: it has ended."""
        try:
            if process.recv(1):
                return
        except BlockingIOError:
            return
        except OSError as error:
            logger.debug("geo_accel port: process %d: %s", place, error)
        self._selector.unregister(process)
        process.close()
        if self._processes.get(place) is process:
            del self._processes[place]

    def _forget(self, now: float) -> None:
        for connection in [one for one, (_, until) in self._strangers.items() if now > until]:
            self._drop(connection)
        self._relays.forget(now)


def _listen(host: str, number: int) -> socket.socket:
    where = f"{host or 'all interfaces'}, port {number}"
    if not 0 <= number < 65536:
        raise ValueError(f"cannot listen at {where}: ports are numbers up to 65535.")
    try:
        # Both families where the machine has them: names of sites may resolve to either.
        dual = not host and socket.has_dualstack_ipv6()
        found = socket.getaddrinfo(host or "0.0.0.0", number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family = socket.AF_INET6 if dual else found[0][0]
        return socket.create_server((host, number), family=family, backlog=512, dualstack_ipv6=dual)
    except OSError as error:
        number_of = 0 if isinstance(error, socket.gaierror) else error.errno or 0
        reason = os.strerror(number_of) if number_of else error.strerror or str(error)
        advice = {
            errno.EADDRINUSE: "another program, or another run, listens there: choose another port",
            errno.EACCES: "ports below 1024 are the system's: choose another",
            errno.EADDRNOTAVAIL: "this machine has no such address: leave the host out, or name one that it has",
        }.get(number_of, "name an address of this machine, or none")
        raise ValueError(f"cannot listen at {where} ({reason}): {advice}.") from error


def _short_folder() -> Path:
    """A new one of our own, under a path that leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="geo_accel-"))
    if len(os.fsencode(folder)) <= _LONGEST_DOOR:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="geo_accel-", dir="/tmp"))


class Arrivals:
    """What a process of the site takes from its port; without a port nothing arrives."""

    def __init__(self, door: str | os.PathLike | None, number: int) -> None:
        """`number` is what connections for it name: see `first_bytes.number_of`."""
        self._door, self._far = socket.socketpair() if door is None else (socket.socket(socket.AF_UNIX), None)
        if door is not None:
            self._door.connect(str(door))
            self._door.sendall(_NUMBER.pack(number))
        self._door.setblocking(False)

    def fileno(self) -> int:
        return self._door.fileno()

    def take(self) -> list[socket.socket]:
        """Connections that have arrived since the last call. Raises ConnectionError once none can any more."""
        taken = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._door, 1, 1)
            except BlockingIOError:
                return taken
            taken += [socket.socket(fileno=fd) for fd in fds]
            if not data and taken:
                return taken
            if not data:
                raise ConnectionError("the site's first process, which listens for all, has ended")

    def close(self) -> None:
        self._door.close()
        if self._far is not None:
            self._far.close()
