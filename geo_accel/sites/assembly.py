# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where sites agree on who takes part: one connection between each two of their first processes, always there.

Nothing but a few hundred bytes per second goes over it, so that no payload stands before them. A thread of its own
lets the member hear, and look at the time; others only dial, accept and read.
"""

import contextlib
import json
import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic

from geo_accel.membership.member import Begun, Member, Record
from geo_accel.membership.messages import Message
from geo_accel.membership.wire import as_json, from_json, record_as_json, record_from_json
from geo_accel.profile.document import write_whole
from geo_accel.sites.messages import SMALL, hear, tell
from geo_accel.transport.links.frames import FrameError
from geo_accel.transport.links.hello import Hello
from geo_accel.transport.links.ways import Route, Ways

logger = logging.getLogger("geo_accel")

_TICK_S = 0.1
_DIAL_S, _HANDSHAKE_S, _TELL_S = 5.0, 10.0, 5.0
_FIRST_AGAIN_S, _LONGEST_AGAIN_S = 0.1, 2.0
_GONE_S = 1.0
"""So long whoever has closed its connection may take to be back, before it is taken to have ended."""
_LINE = 0


def read_record(path: Path) -> Record | None:
    """What a site has written at `path`; None where there is nothing. Raises ValueError for a file that is none."""
    try:
        return record_from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no record of who takes part ({error}); delete it to join anew.") from error


def write_record(path: Path, record: Record) -> None:
    """So that a process that is killed finds it again, or the one before. Raises OSError where that cannot be."""
    text = json.dumps(record_as_json(record))
    write_whole(path, lambda partial: partial.write_text(text, "utf-8"))


@dataclass(slots=True, eq=False)
class _Connection:
    """To another site. What is read and what is written take turns: TLS is not for two threads at once."""

    tls: ssl.SSLSocket
    turn: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, message: Message) -> None:
        with self.turn:
            tell(self.tls, as_json(message))

    def hear(self) -> Message | None:
        """The next message; None where none came for a moment. Raises OSError or ValueError at the end, and for what
        is none."""
        looks = select.poll()
        looks.register(self.tls, select.POLLIN)
        if not self.tls.pending() and not looks.poll(_TICK_S * 1000):
            return None
        with self.turn:  # all of it, as messages are small: not for longer than the socket's timeout
            return from_json(hear(self.tls, SMALL))

    def end(self) -> None:
        """Lets the thread that reads it see its end."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.tls, socket.SHUT_RDWR)


class Assembly:
    """One site's end."""

    def __init__(
        self, member: Member, ways: Ways, peers: Mapping[str, int], record: Path, on_begun: Callable[[Begun], None]
    ) -> None:
        """Begins at once. `peers`: the other sites' ranks by name, to which `ways` lead. `record`: where the member's
        record is kept. `on_begun` is called with every generation that begins here, on the assembly's thread."""
        self._member, self._ways, self._peers, self._path = member, ways, peers, record
        self._names = {rank: name for name, rank in peers.items()}
        self._on_begun = on_begun
        self._written: Record | None = None
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._connections: dict[str, _Connection] = {}
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self.failure: OSError | None = None
        """Why this site says nothing any more: its record cannot be written."""
        works = [self._run, self._accept]
        routes = {name: ways.route(rank, _LINE) for name, rank in peers.items()}
        works += [lambda name=name: self._dial(name) for name, route in routes.items() if route is not None]
        self._threads = [threading.Thread(target=work, name="geo_accel assembly", daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def do(self, work: Callable[[Member], None]) -> None:
        """Has `work` done with the member, soon, on its thread; what it then has to say is said."""
        self._events.put(lambda: work(self._member))

    def close(self) -> None:
        """Says nothing more."""
        self._ends.set()
        with self._lock:
            for connection in self._connections.values():
                connection.end()
        for thread in self._threads:
            thread.join(_DIAL_S + _HANDSHAKE_S)
        self._ways.close()

    # ---- the member's thread

    def _run(self) -> None:
        tick_at = monotonic()
        while not self._ends.is_set() and self.failure is None:
            try:
                self._events.get(timeout=max(0.0, tick_at - monotonic()))()
            except Empty:
                tick_at = monotonic() + _TICK_S
                self._member.tick(monotonic())
            self._settle()

    def _settle(self) -> None:
        member = self._member
        if member.record != self._written:
            try:
                write_record(self._path, member.record)
            except OSError as error:
                # A vote that may be forgotten must not be said: to the others it is as if this site were cut off.
                self.failure = error
                logger.error("geo_accel: %s cannot keep %s (%s), and so takes no part.", member.me, self._path, error)
                return
            self._written = member.record
        for name, message in member.outbox:
            self._tell(name, message)
        member.outbox.clear()
        for begun in member.entered:
            self._on_begun(begun)
        member.entered.clear()

    def _tell(self, name: str, message: Message) -> None:
        connection = self._connections.get(name)
        if connection is not None:
            try:
                connection.tell(message)
            except OSError:
                connection.end()  # its reader sees that; what was said is said again

    # ---- connections

    def _dial(self, name: str) -> None:
        again_s = _FIRST_AGAIN_S
        while not self._ends.is_set():
            try:
                route = self._ways.route(self._peers[name], _LINE)
                assert route is not None
                connection = self._connect(name, route)
                again_s = _FIRST_AGAIN_S
                self._listen_to(name, connection)
            except (OSError, ValueError, FrameError) as error:
                logger.debug("geo_accel: %s does not reach %s: %s", self._member.me, name, error)
            self._ends.wait(again_s)
            again_s = min(2 * again_s, _LONGEST_AGAIN_S)

    def _connect(self, name: str, route: Route) -> ssl.SSLSocket:
        family, address = route.address
        raw = socket.socket(family, socket.SOCK_STREAM)
        try:
            raw.settimeout(_DIAL_S)
            raw.connect(address)
            raw.sendall(route.first_bytes)
            if route.answers:
                sender, connection = self._answer(raw)
                if sender != name:
                    raise ConnectionError(f"{sender} came where {name} was expected")
                return connection
            raw.settimeout(_HANDSHAKE_S)
            connection = self._ways.client.wrap_socket(raw)
            problem = self._ways.problem_with(connection, self._peers[name])
            if problem is not None:
                raise ConnectionError(problem)
            tell(connection, asdict(self._ways.hello(self._peers[name], _LINE)))
            return connection
        except BaseException:
            raw.close()
            raise

    def _answer(self, raw: socket.socket) -> tuple[str, ssl.SSLSocket]:
        """As TLS's server: who it is that dials. Raises OSError or FrameError for who is none of them."""
        raw.settimeout(_HANDSHAKE_S)
        connection = self._ways.server.wrap_socket(raw, server_side=True)
        try:
            hello = Hello.from_bytes(json.dumps(hear(connection, SMALL)).encode())
            problem = hello.problem_for(self._ways.hello(hello.sender, _LINE), frozenset(self._names))
            problem = problem or self._ways.problem_with(connection, hello.sender)
            if problem is not None:
                raise ConnectionError(problem)
        except BaseException:
            connection.close()
            raise
        return self._names[hello.sender], connection

    def _accept(self) -> None:
        looks = select.poll()
        looks.register(self._ways.fileno(), select.POLLIN)
        while not self._ends.is_set():
            if looks.poll(_TICK_S * 1000):
                try:
                    arrived = self._ways.arrived()
                except ConnectionError:  # the port has closed; who is connected stays so
                    return
                for raw in arrived:
                    raw.setblocking(True)
                    threading.Thread(target=self._welcome, args=(raw,), daemon=True).start()

    def _welcome(self, raw: socket.socket) -> None:
        try:
            name, connection = self._answer(raw)
        except (OSError, FrameError) as error:
            raw.close()
            logger.debug("geo_accel: a connection to %s came to nothing: %s", self._member.me, error)
            return
        self._listen_to(name, connection)

    def _listen_to(self, name: str, tls: ssl.SSLSocket) -> None:
        """Until it ends; it takes the place of one that there was."""
        tls.settimeout(_TELL_S)
        connection = _Connection(tls)
        with self._lock:
            before, self._connections[name] = self._connections.get(name), connection
        if before is not None:
            before.end()
        try:
            while not self._ends.is_set():
                message = connection.hear()
                if message is not None:
                    self.do(lambda member, message=message: member.hear(name, message, monotonic()))
        except (OSError, ValueError) as error:
            logger.debug("geo_accel: %s hears no more of %s: %s", self._member.me, name, error)
        finally:
            with self._lock:
                if self._connections.get(name) is connection:
                    del self._connections[name]
            tls.close()
        if not self._ends.wait(_GONE_S) and name not in self._connections:
            # A process that was killed is missed at once, and not after as long as a slow one is waited for.
            self.do(lambda member: member.is_gone(name))
