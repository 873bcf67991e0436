# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One peer: the lines to it, and how a transfer's bytes go over them, as steps of the transport's loop."""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from geo_accel.transport.identity import Header
from geo_accel.transport.links.frames import HEAD_BYTES, LARGEST_CHUNK, Frame, FrameError, Frames, Head, Kind
from geo_accel.transport.links.lines import (
    LineBrokenError,
    Rest,
    Steps,
    Wait,
    goes_by_what_arrives,
    receiving,
    receiving_some,
    sending,
)
from geo_accel.transport.links.pace import Pace
from geo_accel.transport.links.secured import Secured
from geo_accel.transport.links.transfer import Pair, bounds

CONTROL = 0
"""The number of the line that carries no payload."""
_NOTHING = memoryview(b"")
_ENOUGH_THAT_FILL = 2
"""Of lines that fill the network each: a second goes on where the first stalls."""
_CONTROL_BYTES = 64 * 1024
_AT_A_TIME = 8
"""Chunks of a line whose bytes are there, or for which there is room, before other lines have their turn."""


@dataclass(slots=True, eq=False)
class Line:
    """One connection that both ends have agreed on."""

    number: int
    connection: Secured
    read: Steps = field(init=False)
    write: Steps = field(init=False)
    read_waits: Wait = Wait.READABLE
    write_waits: Wait = Wait.MORE
    fills: bool = False
    """Whether one such connection fills the network by itself, whatever gets lost."""
    interest: int = 0
    """What its selector looks for."""
    arriving: Rest = field(default_factory=lambda: Rest(_NOTHING))
    """Where the rest of the chunk goes that is arriving."""
    leaving: Rest = field(default_factory=lambda: Rest(_NOTHING))
    """The rest of the chunk that is leaving, on the control line of frames."""
    queue: deque[bytes] = field(default_factory=deque)
    """Frames that wait to leave, on the control line."""


class Link:
    """This rank's end of the lines to one peer."""

    def __init__(self, peer: int, lines: int, sink: memoryview) -> None:
        """`lines` for payload, besides the one for control. What has arrived twice goes into `sink`."""
        self.peer = peer
        self.pair = Pair()
        self.lines: list[Line | None] = [None] * (lines + 1)
        self.progress_at = monotonic()
        """When bytes last came from it or went to it."""
        self.quiet_s = 0.0
        """The longest time without any in the transfer that runs, or ran last."""
        self.news = False
        """Whether steps of any line that wait for the loop may go on."""
        self.has_to_say = False
        """Whether those of the control line may."""
        self.gone: str | None = None
        """Why it is taken not to come back; None while it may."""
        self.has_been_there = False
        """Whether there ever was a line."""
        self.lost_at: float | None = None
        """When its last line broke that the peer itself has closed; None while there is one."""
        self.heard: Header | None = None
        """What it says the transfer is."""
        self._fits: Callable[[Header], bool] = lambda header: False
        self._payload = self._room = _NOTHING
        self._sink = sink
        self._pace = Pace()

    # ---- a transfer

    def begin(
        self, header: Header, payload: memoryview, room: memoryview, fits: Callable[[Header], bool], pace: Pace
    ) -> None:
        """Sends `payload`, and receives into `room` once a header `fits`; `pace` is told of both."""
        self._pace = pace
        self._payload, self._room, self._fits, self.heard = payload, room, fits, None
        self.progress_at, self.quiet_s = monotonic(), 0.0
        self.say(self.pair.begin(header.to_bytes(), len(payload), len(room)))
        self._look_at_header()
        self.news = True

    def end(self) -> None:
        """Nothing reads the payload or writes into the room from here on."""
        for line in filter(None, self.lines):
            # What was said twice is still on its way.
            line.leaving.left = memoryview(bytes(line.leaving.left))
            line.arriving.left = self._sink[: len(line.arriving.left)]
        self._payload = self._room = _NOTHING

    @property
    def is_over(self) -> bool:
        """Whether both have everything, and the other can know."""
        return self.pair.is_over and self.has_said

    @property
    def has_said(self) -> bool:
        """Whether nothing waits to leave on the control line, or nobody is there to hear it."""
        if self.gone is not None:
            return True
        control = self.lines[CONTROL]
        return control is not None and not control.queue and not control.leaving.left and control.connection.has_left

    def say(self, frames: list[Frame]) -> None:
        """On the control line; where there is none, a new one says all that matters."""
        control = self.lines[CONTROL]
        if control is not None and frames:
            control.queue.extend(frame.to_bytes() for frame in frames)
            self.has_to_say = True

    # ---- lines

    @property
    def is_whole(self) -> bool:
        return all(self.lines)

    @property
    def fills(self) -> bool:
        """Whether each of its lines does."""
        return all(line is not None and line.fills for line in self.lines[CONTROL + 1 :])

    def attach(self, line: Line) -> None:
        """A line that both ends have agreed on; it takes the place of one of the same number."""
        old = self.lines[line.number]
        if old is not None:
            self.detach(old)
        self.lines[line.number] = line
        self.has_been_there, self.lost_at = True, None
        if line.number == CONTROL:
            line.read, line.write = self._reading_control(line), self._writing_control(line)
            self.say(self.pair.control_is_back())
        else:
            line.fills = goes_by_what_arrives(line.connection)
            line.read, line.write = self._reading(line), self._writing(line)
        self.news = True

    def detach(self, line: Line, *, by_peer: bool = False) -> None:
        """It broke, or makes way: what was on it goes over others."""
        line.connection.close()
        if self.lines[line.number] is line:
            self.lines[line.number] = None
            self.pair.lost_line(line.number)
            self.news = True
            if by_peer and not any(self.lines):
                self.lost_at = monotonic()

    def close(self) -> None:
        """Says goodbye, as far as that leaves at once, and ends all lines."""
        control = self.lines[CONTROL]
        if control is not None:
            control.queue.append(Frame.of_words(Kind.BYE, "it was closed").to_bytes())
            with contextlib.suppress(LineBrokenError, StopIteration):
                next(control.write)
        for line in filter(None, self.lines):
            line.connection.close()

    # ---- steps

    def _reading_control(self, line: Line) -> Steps:
        frames, room = Frames(), Rest(memoryview(bytearray(_CONTROL_BYTES)))
        while True:
            count = yield from receiving_some(line.connection, room)
            for frame in frames.feed(room.left[:count]):
                if frame.kind == Kind.BYE:
                    self.gone = frame.words
                    raise LineBrokenError(frame.words, by_peer=True)
                self._hear(frame)
            self._progress()

    def _writing_control(self, line: Line) -> Steps:
        while True:
            while line.queue:
                line.leaving.left = memoryview(b"".join(line.queue))
                line.queue.clear()
                yield from sending(line.connection, line.leaving)
            yield Wait.MORE

    def _reading(self, line: Line) -> Steps:
        line.arriving.moves, chunks = self._came, 0
        head_room = bytearray(HEAD_BYTES)
        while True:
            yield from receiving(line.connection, Rest(memoryview(head_room)))
            head = Head.from_bytes(head_room)
            if head.kind == Kind.HEADER:
                body = bytearray(head.length)
                yield from receiving(line.connection, Rest(memoryview(body)))
                self._hear(Frame(Kind.HEADER, head.transfer, body=bytes(body)))
                continue
            if head.kind != Kind.CHUNK or head.transfer > self.pair.number + 1:
                raise FrameError(f"a {head.kind.name} of transfer {head.transfer} came in {self.pair.number}")
            # Nothing is written anywhere before it is known to be of this transfer.
            while head.transfer > self.pair.number or (head.transfer == self.pair.number and not self._is_expected):
                yield Wait.MORE
            place = self.pair.arriving(head.transfer, head.chunk, head.length)
            line.arriving.left = self._sink[: head.length] if place is None else self._room[slice(*place)]
            yield from receiving(line.connection, line.arriving)
            self.say(self.pair.arrived(head.transfer, head.chunk))
            chunks += 1
            if chunks % _AT_A_TIME == 0:
                yield Wait.TURN

    def _writing(self, line: Line) -> Steps:
        line.leaving.moves, announced, chunks = self._went, 0, 0
        while True:
            chunk = self.pair.next_chunk(line.number) if self._sends(line) else None
            if chunk is None:
                yield Wait.MORE
                continue
            number, (lo, hi) = self.pair.number, bounds(self.pair.out_bytes, chunk)
            line.leaving.left = self._payload[lo:hi]
            first = Head(Kind.CHUNK, hi - lo, number, chunk).to_bytes()
            if announced != number:
                # So that no payload waits for the control line, whose packets may be the ones that get lost.
                first, announced = self.pair.said.to_bytes() + first, number
            line.connection.put(first)
            yield from sending(line.connection, line.leaving)
            chunks += 1
            if chunks % _AT_A_TIME == 0:
                yield Wait.TURN

    def _sends(self, line: Line) -> bool:
        """Whether payload leaves over `line`: over two of those that BBR fills, else over all there are."""
        if not line.fills:
            return True
        return sum(other is not None for other in self.lines[1 : line.number]) < _ENOUGH_THAT_FILL

    def _hear(self, frame: Frame) -> None:
        self.pair.hear(frame)
        if frame.kind == Kind.HEADER:
            self._look_at_header()
            self.news = True

    def _look_at_header(self) -> None:
        if self.heard is None and self.pair.header is not None:
            self.heard = Header.from_bytes(self.pair.header)

    @property
    def _is_expected(self) -> bool:
        return self.heard is not None and self._fits(self.heard)

    def _came(self, count: int) -> None:
        self._pace.moved(count, here=True)
        self._progress()

    def _went(self, count: int) -> None:
        self._pace.moved(count, here=False)
        self._progress()

    def _progress(self) -> None:
        now = monotonic()
        self.quiet_s, self.progress_at = max(self.quiet_s, now - self.progress_at), now


def new_sink() -> memoryview:
    return memoryview(bytearray(LARGEST_CHUNK))
