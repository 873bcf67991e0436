# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a transport over links is told of the world: whom it reaches how, and who proves to be who."""

import socket
import ssl
from dataclasses import dataclass
from typing import Protocol

from geo_accel.transport.links.hello import Hello


@dataclass(frozen=True, slots=True)
class Route:
    """How a peer is reached."""

    address: tuple
    """(family, address) as `socket` takes them."""
    first_bytes: bytes
    """Said before TLS begins, so that whoever listens there knows for whom the connection is."""
    answers: bool = False
    """Whether this end is TLS's server although it dials: at a relay both do."""


class Ways(Protocol):
    """What a transport is given: who its peers are, how they are reached, and what proves who is who."""

    client: ssl.SSLContext
    server: ssl.SSLContext

    def hello(self, peer: int, line: int) -> Hello:
        """What this rank says to `peer` on a line."""

    def route(self, peer: int, line: int) -> Route | None:
        """Where this rank dials `peer`; None where the peer dials."""

    def problem_with(self, connection: ssl.SSLObject | ssl.SSLSocket, peer: int) -> str | None:
        """Why the certificate at the other end is not `peer`'s; None where it is."""

    def fileno(self) -> int:
        """Readable where `arrived` has something."""

    def arrived(self) -> list[socket.socket]:
        """Connections that others have made to this rank. Raises ConnectionError once none can come any more."""

    def close(self) -> None:
        """No more connections arrive."""
