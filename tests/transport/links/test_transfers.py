# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Two ends of a link over lines in memory that break, lose what is on them and come back, at any moment."""

import ssl
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from geo_accel.transport.identity import Header, Identity
from geo_accel.transport.links.frames import Frame, FrameError, Kind
from geo_accel.transport.links.lines import LineBrokenError
from geo_accel.transport.links.link import Line, Link, new_sink
from geo_accel.transport.links.pace import Pace
from geo_accel.transport.links.transfer import Pair, bounds, chunk_bytes, chunk_count

LINES = 3
"""For control and payload."""
MOST = 200_000
"""Bytes of a payload: up to four chunks."""
TRANSFERS = 4
_ON_ITS_WAY = 50_000
"""Bytes that a line in memory holds."""


@dataclass(eq=False)
class Connection:
    """One end of a line, as `lines` uses it."""

    to: bytearray
    arriving: bytearray
    budget: int = 0
    """Bytes that go each way before the next step."""
    ended: bool = False
    other: "Connection" = field(init=False)
    has_left = True

    def send(self, data: memoryview) -> int:
        if self.ended:
            raise ConnectionResetError
        count = min(len(data), self.budget, _ON_ITS_WAY - len(self.to))
        if count <= 0:
            raise BlockingIOError
        self.budget -= count
        self.to += data[:count]
        return count

    def put(self, data: bytes) -> None:
        self.to += data

    def recv_into(self, room: memoryview) -> int:
        count = min(len(room), self.budget, len(self.arriving))
        if count <= 0:
            if self.ended and not self.arriving:
                return 0
            raise ssl.SSLWantReadError
        self.budget -= count
        room[:count] = self.arriving[:count]
        del self.arriving[:count]
        return count

    def getsockopt(self, *_: object) -> bytes:
        return b"cubic"

    def close(self) -> None:
        self.other.ended = self.ended = True


def connected() -> tuple[Connection, Connection]:
    one, two = bytearray(), bytearray()
    ends = Connection(one, two), Connection(two, one)
    ends[0].other, ends[1].other = ends[1], ends[0]
    return ends


class End:
    """What a transport does with one link."""

    def __init__(self, me: int, sizes: list[tuple[int, int]]) -> None:
        self.link, self.me, self.sizes = Link(1 - me, LINES - 1, new_sink()), me, sizes
        self.done: list[bytearray] = []
        self.is_swapping = False

    def content(self, sender: int) -> bytearray:
        """What is sent next."""
        number = len(self.done)
        size = self.sizes[number][sender]
        return bytearray((bytes([1 + 2 * number + sender]) + bytes(range(1, 251))) * (size // 251 + 1))[:size]

    def begin(self) -> None:
        if self.is_swapping or len(self.done) == len(self.sizes):
            return
        self.is_swapping = True
        self.payload, self.room = self.content(self.me), bytearray(self.sizes[len(self.done)][1 - self.me])
        identity = Identity(kind="round", step=len(self.done))
        self.link.begin(
            Header(identity=identity, nbytes=len(self.payload)),
            memoryview(self.payload),
            memoryview(self.room),
            lambda heard: heard.identity == identity,
            Pace(),
        )

    def step(self, number: int, budget: int) -> None:
        """Lets `number` go on for so many bytes."""
        line = self.link.lines[number]
        if line is not None:
            line.connection.budget = budget
            try:
                next(line.read)
                next(line.write)
            except LineBrokenError:
                self.link.detach(line)
        if self.is_swapping and self.link.is_over:
            self.link.end()
            assert self.room == self.content(1 - self.me)
            self.done.append(self.room)
            # Whoever swaps may do what it likes with both from here on.
            self.payload[:], self.room[:] = bytes(len(self.payload)), bytes(len(self.room))
            self.is_swapping = False


class Transfers(RuleBasedStateMachine):
    @initialize(
        sizes=st.lists(st.tuples(*[st.integers(0, MOST) | st.just(0)] * 2), min_size=TRANSFERS, max_size=TRANSFERS)
    )
    def meet(self, sizes):
        self.sizes = sizes
        self.ends = [End(0, sizes), End(1, sizes)]
        self.coming: dict[int, Connection] = {}
        for number in range(LINES):
            self.come_back(number, False)

    @rule(end=st.integers(0, 1))
    def begin(self, end):
        self.ends[end].begin()

    @rule(end=st.integers(0, 1), number=st.integers(0, LINES - 1), budget=st.sampled_from([1, 30, 20_000, 10**6]))
    def step(self, end, number, budget):
        self.ends[end].step(number, budget)

    @rule(budget=st.sampled_from([3000, 10**6]))
    def step_all(self, budget):
        for number in range(LINES):
            for end in self.ends:
                end.step(number, budget)

    @rule(number=st.integers(0, LINES - 1), lost=st.booleans())
    def break_line(self, number, lost):
        """What is on it may be lost, or arrives still."""
        for end in self.ends:
            line = end.link.lines[number]
            if line is not None:
                line.connection.close()
                if lost:
                    line.connection.arriving.clear()

    @rule(number=st.integers(0, LINES - 1), later=st.booleans())
    def come_back(self, number, later):
        """A new one takes the place of what is there; one end may learn `later` of it."""
        accepted, dialled = connected()
        self.take(0, number, accepted)
        self.coming[number] = dialled
        if not later:
            self.learn(number)

    @rule(number=st.integers(0, LINES - 1))
    def learn(self, number):
        if number in self.coming:
            self.take(1, number, self.coming.pop(number))

    def take(self, end, number, connection):
        link = self.ends[end].link
        if link.lines[number] is not None:
            link.detach(link.lines[number])
        link.attach(Line(number, connection))

    @invariant()
    def nobody_is_more_than_one_ahead(self):
        if hasattr(self, "ends"):
            one, other = (end.link.pair.number for end in self.ends)
            assert abs(one - other) <= 1

    @invariant()
    def nothing_is_written_into_what_is_over(self):
        for end in getattr(self, "ends", []):
            assert all(room.count(0) == len(room) for room in end.done)

    def teardown(self):
        """It ends soon, once lines stay."""
        if not hasattr(self, "ends"):
            return
        for number in range(LINES):
            self.come_back(number, False)
        rounds = 0
        while any(len(end.done) < TRANSFERS for end in self.ends):
            for end in self.ends:
                end.begin()
            self.step_all(10**6)
            rounds += 1
            assert rounds <= TRANSFERS * (5 + 2 * 2 * MOST // _ON_ITS_WAY), [
                end.link.pair.__dict__ for end in self.ends
            ]
        self.nothing_is_written_into_what_is_over()


Transfers.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestTransfers = Transfers.TestCase


def test_what_comes_twice_is_neither_read_from_a_payload_that_is_over_nor_written_into_it():
    ends = [End(0, [(60_000, 0)]), End(1, [(60_000, 0)])]
    for number in range(LINES):
        for end, connection in zip(ends, connected(), strict=True):
            end.link.attach(Line(number, connection))
    for end in ends:
        end.begin()
    one, two = ends
    old = one.link.lines[1]
    one.step(1, 30_000)
    two.step(1, 20_000)
    one.link.pair.lost_line(1)  # as far as one end knows
    for _ in range(4):
        for number in (0, 2):
            one.step(number, 10**6)
            two.step(number, 10**6)
    assert one.done and two.done
    one.step(1, 10**6)
    assert len(old.connection.to) > 30_000 and old.connection.to[-1000:].count(0) == 0
    two.step(1, 10**6)
    two.step(1, 10**6)
    assert not any(two.done[0])


@pytest.mark.parametrize("nbytes", [1, 65536, 65537, 10**6, 64 * 2**20, 64 * 2**20 + 1, 10**9])
def test_chunks_are_the_whole_payload_and_none_is_longer_than_a_frame(nbytes):
    count = chunk_count(nbytes)
    edges = [bounds(nbytes, chunk) for chunk in range(count)]
    assert edges[0][0] == 0 and edges[-1][1] == nbytes and all(lo < hi for lo, hi in edges)
    assert [hi for _, hi in edges[:-1]] == [lo for lo, _ in edges[1:]] and chunk_bytes(nbytes) <= 2**20


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Kind.GOT, 2, 0),
        Frame(Kind.DONE, 2),
        Frame(Kind.HEADER, 3, body=bytes(48)),
        Frame(Kind.GOT, 1, 10),
        Frame(Kind.WELCOME, 1),
    ],
)
def test_what_cannot_be_meant_is_a_frame_error(frame):
    pair = Pair()
    pair.begin(b"mine", 10 * 65536, 0)
    with pytest.raises(FrameError):
        pair.hear(frame)


@pytest.mark.parametrize(("chunk", "length"), [(10, 65536), (0, 65535), (9, 65536), (2**32 - 1, 1)])
def test_a_chunk_that_is_not_of_the_payload_is_a_frame_error(chunk, length):
    pair = Pair()
    pair.begin(b"mine", 0, 9 * 65536 + 5)
    with pytest.raises(FrameError):
        pair.arriving(1, chunk, length)
    assert pair.arriving(1, 9, 5) == (9 * 65536, 9 * 65536 + 5) and pair.arriving(0, chunk, length) is None


def test_chunks_are_acknowledged_several_at_a_time_and_all_with_the_last():
    pair = Pair()
    pair.begin(b"", 0, 40 * 64 * 1024)
    said = [len(pair.arrived(1, chunk)) for chunk in range(40)]
    assert said == [0] * 15 + [16] + [0] * 15 + [16] + [0] * 7 + [8]
    assert len(pair.control_is_back()) == 1 + 40
    assert [len(pair.arrived(1, chunk)) for chunk in (3, 3)] == [1, 1]  # again, over another line
    assert pair.arrived(0, 3) == []
