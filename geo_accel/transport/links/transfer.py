# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One pair of ranks, and what they still owe each other, whatever becomes of the lines between them. Pure.

A transfer is one payload in each direction, cut into chunks at places that both ends know. Chunks go over whichever
line has room. What arrived whole is acknowledged over the control line; what was on a line that broke and was not
acknowledged goes over another. So a transfer goes on where it was.

Both ends count transfers alike. An end begins the next one when it has all of this one and the other has said the same
of what it was sent: so nobody is more than one ahead, and what an end remembers of the last one is enough for
a control line that comes back.
"""

from collections import deque

from geo_accel.transport.links.frames import LARGEST_CHUNK, Frame, FrameError, Kind

_LEAST, _MOST, _PARTS = 64 * 1024, 1024 * 1024, 64
_TOGETHER = 16
"""Acknowledgements: what a line loses that breaks before they are said is sent twice, and nothing else depends on
them before the last."""


def chunk_bytes(nbytes: int) -> int:
    """How long the chunks of a payload of `nbytes` bytes are, the last one excepted: a 64th, within reason."""
    wanted = -(-nbytes // _PARTS)
    return min(_MOST, max(_LEAST, -(-wanted // 16384) * 16384))


def chunk_count(nbytes: int) -> int:
    return -(-nbytes // chunk_bytes(nbytes))


def bounds(nbytes: int, chunk: int) -> tuple[int, int]:
    """[lo, hi) of `chunk`, counted from 0, in a payload of `nbytes` bytes."""
    size = chunk_bytes(nbytes)
    return chunk * size, min(nbytes, (chunk + 1) * size)


assert _MOST <= LARGEST_CHUNK


class Pair:
    """One end's view of it."""

    def __init__(self) -> None:
        self.number = 0
        """Of the transfer that runs, or ran last; 0 before the first."""
        self.header: bytes | None = None
        """The other end's, of the transfer that runs."""
        self.out_bytes = self.in_bytes = 0
        self._said = b""
        self._said_before = b""
        self._waiting: deque[int] = deque()
        self._on_line: dict[int, set[int]] = {}
        self._unheard: set[int] = set()
        """Chunks that the other end has not acknowledged."""
        self._missing: set[int] = set()
        self._unsaid: list[Frame] = []
        """Acknowledgements."""
        self._early: bytes | None = None
        """The other end's header of the next transfer."""

    def begin(self, header: bytes, out_bytes: int, in_bytes: int) -> list[Frame]:
        """The next transfer, of so many bytes in each direction; what is to be said of it on the control line."""
        assert self.is_over
        self.number += 1
        self._said_before, self._said = self._said, header
        self.header, self._early = self._early, None
        self.out_bytes, self.in_bytes = out_bytes, in_bytes
        self._waiting = deque(range(chunk_count(out_bytes) if out_bytes else 0))
        self._unheard = set(self._waiting)
        self._missing = set(range(chunk_count(in_bytes) if in_bytes else 0))
        self._on_line.clear()
        self._unsaid.clear()
        return [self.said]

    def control_is_back(self) -> list[Frame]:
        """What is to be said on a control line that is new, since anything may have been lost with the last one."""
        if not self.number:
            return []
        frames = []
        if self._said_before:
            frames += [Frame(Kind.HEADER, self.number - 1, body=self._said_before), Frame(Kind.DONE, self.number - 1)]
        frames.append(self.said)
        self._unsaid.clear()
        arrived = range(chunk_count(self.in_bytes) if self.in_bytes else 0)
        return frames + [Frame(Kind.GOT, self.number, one) for one in arrived if one not in self._missing]

    def hear(self, frame: Frame) -> None:
        """A frame of the control line. Raises FrameError for what cannot be meant."""
        if frame.transfer > self.number + 1 or (frame.transfer > self.number and frame.kind != Kind.HEADER):
            raise FrameError(f"a {frame.kind.name} of transfer {frame.transfer} came in transfer {self.number}")
        if frame.kind == Kind.HEADER and frame.transfer == self.number + 1:
            self._early = frame.body
        elif frame.transfer < self.number:
            pass  # said again, of what is over
        elif frame.kind == Kind.HEADER:
            self.header = frame.body
        elif frame.kind == Kind.DONE:
            self._unheard.clear()
            self._waiting.clear()
        elif frame.kind == Kind.GOT:
            if frame.chunk >= chunk_count(self.out_bytes or 1):
                raise FrameError(f"chunk {frame.chunk} was acknowledged; there are {chunk_count(self.out_bytes or 1)}")
            self._unheard.discard(frame.chunk)
        else:
            raise FrameError(f"a {frame.kind.name} came where none is expected")

    def next_chunk(self, line: int) -> int | None:
        """The chunk that goes over `line` next; None where nothing waits."""
        while self._waiting:
            chunk = self._waiting.popleft()
            if chunk in self._unheard:
                self._on_line.setdefault(line, set()).add(chunk)
                return chunk
        return None

    def lost_line(self, line: int) -> None:
        """`line` broke: what was on it and is not acknowledged goes over another."""
        self._waiting.extend(sorted(self._on_line.pop(line, set()) & self._unheard))

    def arriving(self, transfer: int, chunk: int, length: int) -> tuple[int, int] | None:
        """Where in the payload an announced chunk goes; None for one that has arrived already.

        Only of the transfer that runs or of one that is over. Raises FrameError for one that is not of this payload.
        """
        if transfer < self.number:
            return None
        if not self.in_bytes or chunk >= chunk_count(self.in_bytes):
            raise FrameError(f"chunk {chunk} was announced where {self.in_bytes} bytes are expected")
        lo, hi = bounds(self.in_bytes, chunk)
        if hi - lo != length:
            raise FrameError(f"chunk {chunk} of {length} bytes was announced where it has {hi - lo}")
        return (lo, hi) if chunk in self._missing else None

    def arrived(self, transfer: int, chunk: int) -> list[Frame]:
        """It has, whole, or had before: the acknowledgements to be sent now, several at a time and the rest with the
        last chunk."""
        if transfer != self.number:
            return []
        self._missing.discard(chunk)
        self._unsaid.append(Frame(Kind.GOT, transfer, chunk))
        if self._missing and len(self._unsaid) < _TOGETHER:
            return []
        said, self._unsaid = self._unsaid, []
        return said

    @property
    def said(self) -> Frame:
        """What this transfer is: also said in front of the chunks of every line."""
        return Frame(Kind.HEADER, self.number, body=self._said)

    @property
    def has_sent(self) -> bool:
        return not self._unheard

    @property
    def has_arrived(self) -> bool:
        return self.header is not None and not self._missing

    @property
    def is_over(self) -> bool:
        """Whether both have everything."""
        return self.number == 0 or (self.has_sent and self.has_arrived)
