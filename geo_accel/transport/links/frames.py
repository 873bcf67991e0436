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
_MOST_WORDS = 1024


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


_LENGTHS = {
    Kind.HELLO: range(4096 + 1),
    Kind.WELCOME: range(1),
    Kind.REFUSED: range(_MOST_WORDS + 1),
    Kind.CHUNK: range(1, LARGEST_CHUNK + 1),
    Kind.HEADER: range(HEADER_BYTES, HEADER_BYTES + 1),
    Kind.GOT: range(1),
    Kind.DONE: range(1),
    Kind.BYE: range(_MOST_WORDS + 1),
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
        """Raises FrameError for `HEAD_BYTES` bytes that are none, or announce what their kind does not have."""
        kind, length, transfer, chunk = _HEAD.unpack(data)
        allowed = _LENGTHS.get(kind)
        if allowed is None:
            raise FrameError(f"there is no frame of kind {kind}")
        if length not in allowed:
            wanted = f"{allowed[0]} to {allowed[-1]}" if len(allowed) > 1 else allowed[0]
            raise FrameError(f"a {Kind(kind).name} of {length} bytes was announced; it has {wanted}")
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

    @classmethod
    def of_words(cls, kind: Kind, words: str) -> "Frame":
        """One that says `words`, as many of them as it holds."""
        return cls(kind, body=words.encode(errors="replace")[:_MOST_WORDS])

    @property
    def words(self) -> str:
        """What it says, in one line."""
        return " ".join(self.body.decode(errors="replace").split())


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
