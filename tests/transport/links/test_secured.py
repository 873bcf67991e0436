# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import os
import socket
import ssl
from contextlib import closing

import pytest

from geo_accel.transport.links.secured import Secured


@pytest.fixture
def pair(three_keys):
    """Both ends of a connection on which hands have been shaken, and the socket below the first."""
    below, other = socket.socketpair()
    for one in (below, other):
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ends = Secured(three_keys[0].client(), below, server=False), Secured(three_keys[1].server(), other, server=True)
    with closing(ends[0]), closing(ends[1]):
        shake_hands(*ends)
        yield *ends, other


def shake_hands(*ends: Secured) -> None:
    missing = list(ends)
    while missing:
        for end in list(missing):
            try:
                end.do_handshake()
                missing.remove(end)
            except (ssl.SSLWantReadError, BlockingIOError):
                pass


def received(end: Secured, room: memoryview) -> int:
    try:
        return end.recv_into(room)
    except ssl.SSLWantReadError:
        return 0


def test_all_that_was_sent_arrives_though_the_system_takes_little_at_a_time(pair):
    one, two, _ = pair
    data = os.urandom(300_000)
    left, room, got, waited = memoryview(data), memoryview(bytearray(20_000)), b"", 0
    while len(got) < len(data):
        try:
            left = left[one.send(left) :] if left else left
            one.flush()
        except BlockingIOError:
            waited += 1
            assert not one.has_left
        got += bytes(room[: received(two, room)])
    assert got == data and waited and one.has_left


def test_a_closed_end_and_one_that_broke_off_read_as_nothing_after_what_came_before(pair):
    one, two, _ = pair
    room = memoryview(bytearray(100))
    one.send(memoryview(b"the last words"))
    one.close()
    said = [bytes(room[: received(two, room)]) for _ in range(4)]
    assert b"".join(said) == b"the last words"
    assert [two.recv_into(room), two.recv_into(room)] == [0, 0]


def test_what_is_no_record_is_refused_and_the_other_end_hears_so(pair):
    one, two, below_two = pair
    room = memoryview(bytearray(100))
    below_two.send(b"\xff" * 100)
    for end, words in ((one, r"RECORD|VERSION"), (two, "ALERT")):
        with pytest.raises(ssl.SSLError, match=words):
            for _ in range(3):
                received(end, room)
