# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a line between two ranks carries, cut into frames. Pure: bytes in, frames out.

A frame is a head of 20 bytes (kind, bytes that follow, transfer, chunk) and as many bytes. How many may follow depends
on the kind, so that nobody's word makes anybody take memory.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from geo_accel.transport.identity import HEADER_BYTES

_HEAD = struct.Struct("!B3xIQI")
HEAD_BYTES = _HEAD.size
LARGEST_CHUNK = 2**20
"""Bytes."""


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    """Who dials, whom, and with which line: JSON."""
    WELCOME = 2
    """The answer to a hello that fits."""
    REFUSED = 3
    """The answer to one that does not, in words."""
    CHUNK = 4
    """A part of a transfer's payload."""
    HEADER = 5
    """What a transfer is: identity, wishes, length and checksum."""
    GOT = 6
    """A chunk has arrived whole."""
    DONE = 7
    """All of a transfer has arrived."""
    BYE = 8
    """The sender closes for good, in words."""


_MOST_BYTES = {
    Kind.HELLO: 4096,
    Kind.WELCOME: 0,
    Kind.REFUSED: 1024,
    Kind.CHUNK: LARGEST_CHUNK,
    Kind.HEADER: HEADER_BYTES,
    Kind.GOT: 0,
    Kind.DONE: 0,
    Kind.BYE: 1024,
}


class FrameError(Exception):
    """What arrived is no frame; the line it came over is to be closed."""


@dataclass(frozen=True, slots=True)
class Head:
    """Of one frame."""

    kind: Kind
    length: int
    """Bytes that follow it."""
    transfer: int = 0
    """Counted from 1, over the life of the two ends."""
    chunk: int = 0
    """Counted from 0."""

    def to_bytes(self) -> bytes:
        return _HEAD.pack(self.kind, self.length, self.transfer, self.chunk)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> "Head":
        """Raises FrameError for `HEAD_BYTES` bytes that are none, or announce more than their kind may have."""
        kind, length, transfer, chunk = _HEAD.unpack(data)
        if kind not in _MOST_BYTES:
            raise FrameError(f"there is no frame of kind {kind}")
        if length > _MOST_BYTES[Kind(kind)]:
            raise FrameError(f"a {Kind(kind).name} of {length} bytes was announced; {_MOST_BYTES[Kind(kind)]} at most")
        return cls(Kind(kind), length, transfer, chunk)


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame."""

    kind: Kind
    transfer: int = 0
    chunk: int = 0
    body: bytes = b""

    def to_bytes(self) -> bytes:
        return Head(self.kind, len(self.body), self.transfer, self.chunk).to_bytes() + self.body


class Frames:
    """The frames of a line that carries no payload, as its bytes come in."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames that `data` completes. Raises FrameError, after which nothing more can be understood."""
        self._bytes += data
        found, at = [], 0
        while len(self._bytes) - at >= HEAD_BYTES:
            head = Head.from_bytes(self._bytes[at : at + HEAD_BYTES])
            if head.kind == Kind.CHUNK:
                raise FrameError("payload came over the line that is for control")
            end = at + HEAD_BYTES + head.length
            if len(self._bytes) < end:
                break
            found.append(Frame(head.kind, head.transfer, head.chunk, bytes(self._bytes[at + HEAD_BYTES : end])))
            at = end
        del self._bytes[:at]
        return found
