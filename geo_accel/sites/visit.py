# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A process at the meeting point: how it comes, whom it finds there, and what it lays on the shelf for others."""

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from geo_accel.sites.credentials import Credentials, Shown, is_removed
from geo_accel.sites.first_bytes import FirstBytes, For
from geo_accel.sites.invitation import EXPECT_VARIABLE, MEET_VARIABLE, Address, address_text
from geo_accel.sites.meeting import Arrival, Roster
from geo_accel.sites.messages import LARGE, hear, tell
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.links.lines import LineRefusedError, broken
from geo_accel.transport.waiting import Waiting

_DIAL_S = 10.0
_AGAIN_S = 0.5
_LATE_S = 15.0
"""So much later than agreed an answer may come before the connection is given up."""
_REDIAL_S = 60.0
"""So long a meeting point that was there may be away."""


class Visit:
    """One process's. While it lasts, the meeting point knows that the process lives."""

    def __init__(self, address: Address, credentials: Credentials, arrival: Arrival, deadline_s: float) -> None:
        """Comes, and waits until all are there; `deadline_s` bounds the wait (seconds).

        Raises ValueError with the meeting point's words where it refuses, and for a name that does not resolve;
        SiteLostError where nobody answers, or not all come.
        """
        self.address = address
        """Where this process reaches the meeting point."""
        self._credentials = credentials
        self._connection: ssl.SSLSocket | None = None
        self._shelves: list[MeetShelf] = []
        missing = [self.point]
        start = time.monotonic()
        with Waiting(lambda: deadline_s).over(f"{arrival.site}: meeting", lambda: missing[0]):
            try:
                self.roster = self._come(arrival, start, deadline_s, missing)
                """Who is in."""
            except BaseException:
                self.close()
                raise

    def _come(self, arrival: Arrival, start: float, deadline_s: float, missing: list[str]) -> Roster:
        while True:
            try:
                self._connection = _dial(self.address, self._credentials)
                tell(self._connection, {"arrive": asdict(arrival)})
                self._connection.settimeout(4 * _LATE_S)
                while True:
                    said = hear(self._connection, LARGE)
                    if "refused" in said:
                        raise ValueError(f"the meeting point refuses {arrival.site}: {said['refused']}")
                    if "roster" in said:
                        self._connection.settimeout(None)
                        return Roster.from_json(said["roster"])
                    missing[0] = str(said["missing"])
                    if time.monotonic() - start > deadline_s:
                        raise SiteLostError(
                            f"{arrival.site} waited {deadline_s:.0f} s (resilience.patience_s) for {missing[0]}: is "
                            f"everything started, each site as a job of its own with {MEET_VARIABLE}, and is "
                            f"{EXPECT_VARIABLE} right?"
                        )
            except socket.gaierror as error:
                raise ValueError(
                    f"{self.address[0]} does not resolve ({error.strerror}); check {MEET_VARIABLE} (or meet.at)."
                ) from error
            except OSError as error:
                self.close()
                if isinstance(cause := broken(error), LineRefusedError):
                    raise ValueError(
                        f"{self.point} and {arrival.site} are not of one run: {cause}; are both key files of the same "
                        "authority, and is neither out of date?"
                    ) from error
                reason = error.strerror or str(error)
                missing[0] = f"{self.point} ({reason})"
                if time.monotonic() - start > deadline_s:
                    raise SiteLostError(
                        f"{arrival.site} could not reach the meeting point at {address_text(self.address)} within "
                        f"{deadline_s:.0f} s (resilience.patience_s; {reason}): does it run, as a site with "
                        f"{MEET_VARIABLE}=listen:{self.address[1]} or as geo-accel meet, and is its port open?",
                        retryable=True,
                    ) from error
                time.sleep(_AGAIN_S)

    @property
    def point(self) -> str:
        """The meeting point, as errors call it."""
        return f"the meeting point at {address_text(self.address)}"

    def shelf(self, prefix: str) -> "MeetShelf":
        """The run's shelf, for keys that begin with `prefix`, over a connection of its own. For one thread."""
        shelf = MeetShelf(lambda: _dial(self.address, self._credentials), self.roster.run, self.point, prefix)
        self._shelves.append(shelf)
        return shelf

    def close(self) -> None:
        """Leaves, with all shelves that it was asked for."""
        for shelf in self._shelves:
            shelf.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class MeetShelf:
    """Texts by key at the meeting point. A connection that breaks is made again, and what was asked is asked again."""

    def __init__(self, dial: Callable[[], ssl.SSLSocket], run: str, holder: str, prefix: str) -> None:
        self.holder: str | None = holder
        """Who keeps it, as errors call them."""
        self._dial, self._run, self._prefix = dial, run, prefix
        self._connection: ssl.SSLSocket | None = None

    def set(self, key: str, text: str) -> None:
        """Lays `text` down, in place of what was there. Raises ConnectionError where the meeting point is lost."""
        self._ask({"do": "set", "keys": [key], "text": text})

    def wait(self, keys: Sequence[str], timeout_s: float) -> list[str] | None:
        """The texts of `keys`, as soon as all are there; None where they are not after `timeout_s` seconds."""
        return self._ask({"do": "get", "keys": list(keys), "wait_s": timeout_s}, timeout_s)["texts"]

    def has(self, key: str) -> bool:
        return self._ask({"do": "has", "keys": [key]})["has"]

    def delete(self, keys: Sequence[str]) -> None:
        self._ask({"do": "delete", "keys": list(keys)})

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, what: dict[str, Any], takes_s: float = 0.0) -> dict[str, Any]:
        """Whatever is asked may be asked again."""
        start = time.monotonic()
        what = what | {"keys": [self._prefix + key for key in what["keys"]]}
        while True:
            try:
                if self._connection is None:
                    self._connection = self._open()
                self._connection.settimeout(takes_s + _LATE_S)
                tell(self._connection, what)
                said = hear(self._connection, LARGE)
                break
            except OSError as error:
                self.close()
                if time.monotonic() - start > takes_s + _REDIAL_S:
                    raise ConnectionError(error.strerror or str(error)) from error
                time.sleep(_AGAIN_S)
            except ValueError as error:  # asked again, it would be refused again
                self.close()
                raise ConnectionError(str(error)) from error
        if "refused" in said:
            raise ConnectionError(said["refused"])
        return said

    def _open(self) -> ssl.SSLSocket:
        connection = self._dial()
        try:
            tell(connection, {"shelf": self._run})
            said = hear(connection, LARGE)
            if "refused" in said:
                raise ValueError(said["refused"])
        except BaseException:
            connection.close()
            raise
        return connection


def _dial(address: Address, credentials: Credentials) -> ssl.SSLSocket:
    """A connection to the meeting point at `address`. ValueError for somebody else who answers there."""
    raw = socket.create_connection(address, timeout=_DIAL_S)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        raw.sendall(FirstBytes(whom=For.MEETING).to_bytes())
        connection = credentials.client().wrap_socket(raw)
    except ssl.SSLCertVerificationError as error:
        raw.close()
        raise ValueError(
            f"whoever answers at {address_text(address)} is not of this run: its certificate is refused "
            f"({error.verify_message}); are both key files of the same authority?"
        ) from error
    except OSError as error:
        raw.close()
        raise ConnectionError(str(broken(error))) from error
    shown = Shown.by(connection)
    if is_removed(shown, credentials.about.removed):
        connection.close()
        raise ValueError(
            f"whoever answers at {address_text(address)} shows {shown.site}'s certificate, which was removed."
        )
    return connection
