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
_TOKEN = struct.Struct("!HH12s")


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
    """`number_of` a process inside its site, or of a line to be relayed."""
    token: bytes = bytes(16)
    """Of a pair that is relayed."""
    side: int = 0
    """Of the pair: 0 for the lower rank, 1 for the higher."""

    def to_bytes(self) -> bytes:
        return _FORMAT.pack(_MAGIC, self.whom, self.side, self.number, self.token)

    @classmethod
    def from_bytes(cls, data: bytes) -> "FirstBytes | None":
        """None for bytes that are none."""
        magic, whom, side, number, token = _FORMAT.unpack(data)
        if magic != _MAGIC or whom not in set(For) or side > 1:
            return None
        return cls(whom=For(whom), number=number, token=token, side=side)


def number_of(place: int, channel: int) -> int:
    """Where connections for a process's `channel` arrive, behind the port of its site; `place` is its rank there."""
    return channel << 16 | place


def relay_token(secret: str, low: int, high: int) -> bytes:
    """Of the pair of ranks `low` < `high`, from what all members of a run know and nobody else."""
    proof = hmac.digest(bytes.fromhex(secret), f"relay {low} {high}".encode(), "sha256")
    return _TOKEN.pack(low, high, proof[:12])


def is_relay_token(secret: str, token: bytes) -> bool:
    """Whether some pair of the run has it: strangers are not relayed."""
    low, high, _ = _TOKEN.unpack(token)
    return low < high and hmac.compare_digest(token, relay_token(secret, low, high))
