# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""TLS around a socket that does not block: many records for every call of the system."""

import contextlib
import socket
import ssl

_AT_ONCE = 64 * 1024
"""Bytes that are read from the system in one go, or made records: those wait here until the system takes them, and can
then go over no other line."""


class Secured:
    """One connection. Raises as `ssl.SSLSocket` does where something has to be waited for.

    `ssl.SSLSocket` asks the system twice for every record of 16 KB, and for one that has come in part each time that a
    packet of it arrives; a thread that trains beside it pays for that.
    """

    def __init__(
        self, context: ssl.SSLContext, connection: socket.socket, *, server: bool, first: bytes = b""
    ) -> None:
        """Takes `connection` over, before anything of TLS is said. `first` goes before that, as it is."""
        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._left = memoryview(first)
        """What the system has not taken yet."""
        self._took_all = False
        """Whether the last reading from the system took all there was."""
        self._is_drained = False
        """Whether nothing is there until the selector says so."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Without a word to the other end."""
        self._socket.close()

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        """As `socket.socket` does."""
        return self._socket.getsockopt(level, option, length)

    @property
    def has_left(self) -> bool:
        """Whether the system has all that was sent."""
        return not self._left and not self._outgoing.pending

    def do_handshake(self) -> None:
        """Goes on with it as far as possible. Raises ssl.SSLWantReadError or BlockingIOError where it waits."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._fetch()
                if self._is_drained:
                    self._is_drained = False
                    raise
            except ssl.SSLError:
                self._say_why()
                raise
            else:
                self.flush()
                return

    def recv_into(self, room: memoryview) -> int:
        """Fills `room` with what has come; returns how many bytes, 0 where the other end has closed. Raises
        ssl.SSLWantReadError where nothing is there."""
        count = 0
        try:
            while count < len(room) and not self._is_drained:
                try:
                    # With room given, it says how many bytes it read.
                    count += self.tls.read(len(room) - count, room[count:])  # pyrefly: ignore[unsupported-operation]
                except ssl.SSLWantReadError:
                    self._fetch()
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return count
        except ssl.SSLError:
            self._say_why()
            raise
        if count:
            return count
        self._is_drained = False
        raise ssl.SSLWantReadError

    def send(self, data: memoryview) -> int:
        """Bytes of `data` that have become records. Raises BlockingIOError where those before have not all left."""
        if self._left:
            self.flush()
        count = self.tls.write(data[:_AT_ONCE])
        with contextlib.suppress(BlockingIOError):
            self.flush()
        return count

    def put(self, data: bytes) -> None:
        """Makes a record of a few bytes, which leaves with what is sent next."""
        self.tls.write(data)

    def flush(self) -> None:
        """Gives the system all that has become records. Raises BlockingIOError where it does not take all of it."""
        while not self.has_left:
            if not self._left:
                self._left = memoryview(self._outgoing.read())
            self._left = self._left[self._socket.send(self._left) :]

    def _say_why(self) -> None:
        """What is wrong with what has come, as far as that leaves at once."""
        with contextlib.suppress(OSError):
            self.flush()

    def _fetch(self) -> None:
        """More records from the system, unless the last reading took all there was."""
        if self._took_all:
            self._took_all, self._is_drained = False, True
            return
        try:
            arrived = self._socket.recv(_AT_ONCE)
        except BlockingIOError:
            self._is_drained = True
            return
        self._took_all = 0 < len(arrived) < _AT_ONCE
        if arrived:
            self._incoming.write(arrived)
        else:
            self._incoming.write_eof()
