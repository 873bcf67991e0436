# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The meeting point as it serves: lets in who proves to be a site, tells all who is there, and keeps their shelf."""

import ipaddress
import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from geo_accel.sites.credentials import Credentials, Shown, is_removed
from geo_accel.sites.meeting import Arrival, Meeting, Shelf
from geo_accel.sites.messages import LARGE, SMALL, hear, tell

logger = logging.getLogger("geo_accel")

_HANDSHAKE_S = 10.0
_MOST_TALKS = 4096
TELL_S = 5.0
"""How often who waits is told for whom."""


class Host:
    """Answers every connection on a thread of its own. Give `talk` to a `Port`."""

    def __init__(self, credentials: Credentials, expect: int | None, says: Callable[[str], None]) -> None:
        """`says` is told of what people should know, a line each."""
        self.meeting = Meeting(expect, run=secrets.token_hex(8), secret=secrets.token_hex(16))
        self._shelf = Shelf()
        self._changed = threading.Condition()
        """To be held while looking at meeting and shelf."""
        self._removed = credentials.about.removed
        self._tls = credentials.server()
        self._says = says
        self._talks = 0

    def talk(self, connection: socket.socket) -> None:
        """Serves `connection` until it ends. Returns at once."""
        if self._talks >= _MOST_TALKS:
            connection.close()
            return
        self._talks += 1
        threading.Thread(target=self._serve, args=(connection,), name="geo_accel meeting", daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            where = raw.getpeername()[0]
            raw.settimeout(_HANDSHAKE_S)
            with self._tls.wrap_socket(raw, server_side=True) as connection:
                shown = Shown.by(connection)
                if is_removed(shown, self._removed):
                    tell(connection, {"refused": f"{shown.site}'s certificate was removed: ask for a new key file."})
                    self._says(f"refused {where}: {shown.site}'s certificate was removed")
                    return
                first = hear(connection, SMALL)
                connection.settimeout(None)
                if isinstance(first, dict) and "arrive" in first:
                    self._receive(connection, first["arrive"], shown, where)
                elif isinstance(first, dict) and "shelf" in first:
                    self._keep_shelf(connection, first["shelf"], shown)
        except (OSError, ValueError) as error:
            reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error
            logger.debug("geo_accel meeting: %s", reason)
        finally:
            raw.close()
            self._talks -= 1

    def _receive(self, connection: ssl.SSLSocket, content: Any, shown: Shown, where: str) -> None:
        try:
            arrival = Arrival.from_json(content)
        except ValueError as error:
            tell(connection, {"refused": f"{error}: install the same version everywhere."})
            return
        arrival = replace(arrival, address=_seen_from_here(arrival.address, where))
        with self._changed:
            refused = self.meeting.arrive(arrival, shown.site, shown.fingerprint)
            self._changed.notify_all()
        if refused is not None:
            tell(connection, {"refused": refused})
            self._says(f"refused {where}: {refused}")
            return
        try:
            self._await_all(connection)
            hear(connection, SMALL)  # nothing more is said: this returns when the process ends
        finally:
            with self._changed:
                self.meeting.leave(arrival)
                self._changed.notify_all()

    def _await_all(self, connection: ssl.SSLSocket) -> None:
        while True:
            with self._changed:
                if self.meeting.roster is None:
                    self._changed.wait(TELL_S)
                roster, missing = self.meeting.roster, self.meeting.missing
            if roster is not None:
                tell(connection, {"roster": roster.to_json()})
                return
            tell(connection, {"missing": missing})

    def _keep_shelf(self, connection: ssl.SSLSocket, run: object, shown: Shown) -> None:
        roster = self.meeting.roster
        if roster is None or run != roster.run:
            tell(connection, {"refused": "this is another run than the one that it was in: has it been started anew?"})
            return
        if all(shown.fingerprint not in member.fingerprints for member in roster.members):
            tell(connection, {"refused": f"{shown.site} shows another certificate than it came with"})
            return
        tell(connection, {"open": True})
        while True:
            asked = hear(connection, LARGE)
            tell(connection, self._answer(asked))

    def _answer(self, asked: Any) -> dict[str, Any]:
        what, keys = asked["do"], [str(key) for key in asked["keys"]]
        with self._changed:
            if what == "set":
                self._shelf.set(keys[0], str(asked["text"]))
                self._changed.notify_all()
            elif what == "delete":
                self._shelf.delete(keys)
            elif what == "get":
                self._changed.wait_for(lambda: self._shelf.get(keys) is not None, float(asked["wait_s"]))
                return {"texts": self._shelf.get(keys)}
            elif what == "has":
                return {"has": self._shelf.get(keys) is not None}
        return {}


def _seen_from_here(address: str | None, where: str) -> str | None:
    """`address` with the host that its process comes from, where it gives none."""
    if address is None or not address.startswith(":"):
        return address
    seen = ipaddress.ip_address(where.split("%")[0])
    seen = getattr(seen, "ipv4_mapped", None) or seen
    return f"[{seen}]{address}" if seen.version == 6 else f"{seen}{address}"
