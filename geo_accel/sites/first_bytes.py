# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a connection says before TLS begins: for whom behind the port it is. Nothing in it is secret, or believed.

A port has many behind it: the meeting point, every process of its site, and pairs of processes of other sites that
cannot reach each other. What they say to whom is TLS's, end to end.
"""

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

_FORMAT = struct.Struct("!4sBxHI16s")
FIRST_BYTES = _FORMAT.size
_MAGIC = b"geo1"


class For(IntEnum):
    """Whom a connection is for."""

    MEETING = 1
    PROCESS = 2
    """Of the port's own site."""
    RELAY = 3
    """Whoever comes with the same token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBytes:
    """What a connection says first."""

    whom: For
    number: int = 0
    """Of a process inside its site, or of one end of a line to be relayed: `relay_number`."""
    token: bytes = bytes(16)
    """Of a pair that is relayed."""

    def to_bytes(self) -> bytes:
        return _FORMAT.pack(_MAGIC, self.whom, 0, self.number, self.token)

    @classmethod
    def from_bytes(cls, data: bytes) -> "FirstBytes | None":
        """None for bytes that are none."""
        magic, whom, _, number, token = _FORMAT.unpack(data)
        if magic != _MAGIC or whom not in set(For):
            return None
        return cls(whom=For(whom), number=number, token=token)


def relay_number(line: int, first: bool) -> int:
    """Of `line` of a pair, as it is said at the end that comes `first` in order, or at the other."""
    return 2 * line + (0 if first else 1)


def relay_token(secret: str, low: int, high: int) -> bytes:
    """Of the pair of ranks `low` < `high`, from what all members of a run know and nobody else."""
    return hmac.digest(bytes.fromhex(secret), f"relay {low} {high}".encode(), "sha256")[:16]
