# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The meeting point as it serves: lets in who proves to be a site, tells all who is there, and keeps their shelf."""

import contextlib
import ipaddress
import logging
import os
import secrets
import select
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any

from geo_accel.sites.credentials import Credentials, Shown, is_removed
from geo_accel.sites.first_bytes import is_relay_token
from geo_accel.sites.invitation import address_text
from geo_accel.sites.meeting import Arrival, Meeting, Roster, Shelf
from geo_accel.sites.messages import LARGE, SMALL, hear, tell
from geo_accel.transport.links.lines import prepare

logger = logging.getLogger("geo_accel")

_HANDSHAKE_S = 10.0
_MOST_STRANGERS = 128
"""Connections that have proved nothing yet; the oldest makes way."""
_MOST_MEMBERS = 8192
TELL_S = 5.0
"""How often who waits is told for whom."""
_TELL_WITHIN_S = 60.0
_LOOK_S = 5.0
_LONGEST_WAIT_S = 7 * 86400.0
_PART_S = 1.0
_SAID_AGAIN_S = 60.0
_MOST_SAID, _MOST_SAID_OF_STRANGERS = 64, 16
"""Lines in `_SAID_AGAIN_S`; whoever knocks a thousand times fills no log."""


class Host:
    """Answers every connection on a thread of its own. Give `talk` and `relays` to a `Port`."""

    def __init__(self, credentials: Credentials, expect: int | None, says: Callable[[str], None]) -> None:
        """`says` is told, on any thread, of what people should know, a line each."""
        self._meeting = Meeting(expect, run=secrets.token_hex(8), secret=secrets.token_hex(16))
        self._shelf = Shelf()
        self._changed = threading.Condition()
        """To be held while looking at anything here."""
        self._removed = credentials.about.removed
        self._tls = credentials.server()
        self._says, self._said = says, dict[str, float]()
        self._strangers: dict[ssl.SSLSocket, threading.Thread] = {}
        self._members: dict[ssl.SSLSocket, threading.Thread] = {}
        # Readable once its other end is closed: all threads that wait for the others to come see that at once.
        self._all_here, self._nobody_missing = os.pipe()
        self._is_signalled = self._is_closed = False

    @property
    def roster(self) -> Roster | None:
        """None until all are there."""
        with self._changed:
            return self._meeting.roster

    @property
    def present(self) -> dict[str, tuple[int, int]]:
        """By site, how many of its processes are there, and how many it has."""
        with self._changed:
            return self._meeting.present

    @property
    def missing(self) -> str:
        """Who is not there, in words."""
        with self._changed:
            return self._meeting.missing

    def relays(self, token: bytes) -> bool:
        """Whether two members of the run have this token, to be joined at the port."""
        roster = self.roster
        return roster is not None and is_relay_token(roster.secret, token)

    def talk(self, connection: socket.socket) -> None:
        """Serves `connection` until it ends. Returns at once."""
        prepare(connection)
        try:
            secured = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # it has ended already
            connection.close()
            return
        thread = threading.Thread(target=self._serve, args=(secured,), name="geo_accel meeting", daemon=True)
        with self._changed:
            if self._is_closed or len(self._members) >= _MOST_MEMBERS:
                secured.close()
                return
            if len(self._strangers) >= _MOST_STRANGERS:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                _end(oldest)
            self._strangers[secured] = thread
            thread.start()

    def wait_until_left(self, timeout_s: float) -> None:
        """Returns once no member is there any more, after `timeout_s` seconds at the latest."""
        with self._changed:
            self._changed.wait_for(lambda: not self._members, timeout_s)

    def close(self) -> None:
        """Ends all talks."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            talks = {**self._strangers, **self._members}
            self._signal()
            self._changed.notify_all()
        for connection in talks:
            _end(connection)
        until = monotonic() + _LOOK_S
        for thread in talks.values():
            thread.join(max(0.0, until - monotonic()))
        os.close(self._all_here)

    def _serve(self, connection: ssl.SSLSocket) -> None:
        try:
            where = _plain(connection.getpeername()[0])
            connection.settimeout(_HANDSHAKE_S)
            shown = self._prove(connection, where)
            if shown is None:
                return
            with self._changed:
                if connection not in self._strangers:  # it had to make way
                    return
                self._members[connection] = self._strangers.pop(connection)
            first = hear(connection, SMALL)
            if "arrive" in first:
                self._receive(connection, first["arrive"], shown, where)
            elif "shelf" in first:
                self._keep_shelf(connection, first["shelf"], shown)
        except (OSError, ValueError) as error:
            logger.debug("geo_accel meeting: %s", error)
        finally:
            _part(connection)
            with self._changed:
                self._strangers.pop(connection, None)
                self._members.pop(connection, None)
                self._changed.notify_all()

    def _prove(self, connection: ssl.SSLSocket, where: str) -> Shown | None:
        """Who is at the other end; None for somebody whose certificate does not count any more."""
        try:
            connection.do_handshake()
        except ssl.SSLError as error:
            reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
            self._say(f"refused {where}: it proves to be no site of this run ({reason})", _MOST_SAID_OF_STRANGERS)
            raise
        shown = Shown.by(connection)
        if not is_removed(shown, self._removed):
            return shown
        self._refuse(connection, where, f"{shown.site}'s certificate was removed: ask for a new key file.")
        return None

    def _refuse(self, connection: ssl.SSLSocket, where: str, why: str) -> None:
        self._say(f"refused {where}: {why}")
        tell(connection, {"refused": why})

    def _receive(self, connection: ssl.SSLSocket, content: Any, shown: Shown, where: str) -> None:
        try:
            arrival = Arrival.from_json(content)
        except ValueError as error:
            self._refuse(connection, where, f"{error}: install the same version everywhere.")
            return
        arrival = replace(arrival, address=_seen_from_here(arrival.address, where))
        with self._changed:
            refused = self._meeting.arrive(arrival, shown.site, shown.fingerprint)
            if self._meeting.roster is not None:
                self._signal()
        if refused is not None:
            self._refuse(connection, where, refused)
            return
        try:
            self._await_all(connection)
            connection.settimeout(None)
            hear(connection, SMALL)  # nothing more is said: this returns when the process ends
        finally:
            with self._changed:
                self._meeting.leave(arrival)

    def _await_all(self, connection: ssl.SSLSocket) -> None:
        connection.settimeout(_TELL_WITHIN_S)
        looks = select.poll()
        looks.register(connection, select.POLLIN)
        looks.register(self._all_here, select.POLLIN)
        while True:
            with self._changed:
                roster, missing = self._meeting.roster, self._meeting.missing
                if self._is_closed:
                    return
            if roster is not None:
                tell(connection, {"roster": roster.to_json()})
                return
            tell(connection, {"missing": missing})
            if connection.fileno() in dict(looks.poll(TELL_S * 1000)):
                raise ConnectionError("it has left, or says something before it is told who is there")

    def _keep_shelf(self, connection: ssl.SSLSocket, run: object, shown: Shown) -> None:
        roster = self.roster
        if roster is None or run != roster.run:
            tell(connection, {"refused": "this is another run than the one that it was in: has it been started anew?"})
            return
        if all(shown.fingerprint not in member.fingerprints for member in roster.members):
            tell(connection, {"refused": f"{shown.site} shows another certificate than it came with"})
            return
        tell(connection, {"open": True})
        connection.settimeout(None)
        looks = select.poll()
        looks.register(connection, select.POLLIN)
        while True:
            tell(connection, self._answer(hear(connection, LARGE), lambda: bool(looks.poll(0))))

    def _answer(self, asked: dict[str, Any], is_gone: Callable[[], bool]) -> dict[str, Any]:
        """`is_gone`: whether who asks does not wait for the answer any more."""
        try:
            what, keys, text, wait_s = _read_ask(asked)
        except (KeyError, TypeError, ValueError, OverflowError):
            return {"refused": "what was asked of the shelf is not of this version of geo_accel"}
        with self._changed:
            if what == "set":
                self._shelf.set(keys[0], text)
                self._changed.notify_all()
            elif what == "delete":
                self._shelf.delete(keys)
            elif what == "has":
                return {"has": self._shelf.get(keys) is not None}
            else:
                until = monotonic() + wait_s
                while (texts := self._shelf.get(keys)) is None and (left := until - monotonic()) > 0:
                    self._changed.wait(min(left, _LOOK_S))
                    if self._is_closed or is_gone():
                        raise ConnectionError("it does not wait any more")
                return {"texts": texts}
        return {}

    def _signal(self) -> None:
        if not self._is_signalled:
            self._is_signalled = True
            os.close(self._nobody_missing)

    def _say(self, line: str, most: int = _MOST_SAID) -> None:
        now = monotonic()
        with self._changed:
            self._said = {one: at for one, at in self._said.items() if now - at < _SAID_AGAIN_S}
            if line in self._said or len(self._said) >= most:
                return
            self._said[line] = now
        self._says(line)


def _read_ask(asked: dict[str, Any]) -> tuple[str, list[str], str, float]:
    """What is to be done with which keys, a text, seconds. Raises ValueError, TypeError or KeyError for others."""
    what, keys = asked["do"], asked["keys"]
    text, wait_s = asked.get("text", ""), float(asked.get("wait_s", 0.0))
    is_list = type(keys) is list and keys and all(type(one) is str for one in [what, text, *keys])
    if not is_list or what not in ("set", "delete", "has", "get"):
        raise ValueError("not asked as a shelf is")
    return what, keys, text, min(max(wait_s, 0.0), _LONGEST_WAIT_S)


def _end(connection: ssl.SSLSocket) -> None:
    """Lets the thread that serves it see its end."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS's own would change what the thread is using


def _part(connection: ssl.SSLSocket) -> None:
    """Closes it so that what was said last arrives: with bytes unread, TCP would tell the other end to forget it."""
    with contextlib.suppress(OSError, ValueError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_PART_S)
        until = monotonic() + _PART_S
        while connection.recv(4096) and monotonic() < until:
            pass
    connection.close()


def _plain(address: str) -> str:
    """As people write it, without an interface, and IPv4 as IPv4."""
    seen = ipaddress.ip_address(address.split("%")[0])
    return str(getattr(seen, "ipv4_mapped", None) or seen)


def _seen_from_here(address: str | None, where: str) -> str | None:
    """`address` with the host that its process comes from, where it gives none."""
    if address is None or not address.startswith(":"):
        return address
    return address_text((where, int(address[1:])))
