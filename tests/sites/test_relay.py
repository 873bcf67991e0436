# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Two ends that a port joins: what goes from one to the other, and how either ends."""

import random
import socket
import threading

import pytest

from geo_accel.sites import relay
from geo_accel.sites.first_bytes import FirstBytes, For
from tests.sites.point import TOKEN, dial, is_closed, relayed, until


def receive(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length and (piece := connection.recv(2**16)):
        data += piece
    return bytes(data)


def test_two_are_joined_and_bytes_go_both_ways(opened):
    low, high = relayed(opened)
    other_low, other_high = relayed(opened, number=2)
    rng = random.Random(2)
    there, back = rng.randbytes(3_000_000), rng.randbytes(2_000_000)
    sending = [
        threading.Thread(target=low.sendall, args=(there,)),
        threading.Thread(target=high.sendall, args=(back,)),
    ]
    heard: dict[str, bytes] = {}
    sending.append(threading.Thread(target=lambda: heard.update(back=receive(low, len(back)))))
    for thread in sending:
        thread.start()
    assert receive(high, len(there)) == there
    for thread in sending:
        thread.join(30)
    assert heard["back"] == back
    other_high.sendall(b"apart")
    assert receive(other_low, 5) == b"apart"


def test_what_was_said_before_the_other_came_is_passed_on(opened):
    low = dial(opened, FirstBytes(whom=For.RELAY, token=TOKEN, side=0))
    low.sendall(b"early")
    high = dial(opened, FirstBytes(whom=For.RELAY, token=TOKEN, side=1))
    assert receive(high, 5) == b"early"


def test_nothing_is_read_from_whoever_sends_faster_than_the_other_takes(opened):
    low, high = relayed(opened)
    low.settimeout(0.5)
    sent, piece = 0, bytes(2**16)
    with pytest.raises(TimeoutError):
        while sent < 2**28:
            sent += low.send(piece)
    (joined,) = opened[0]._relays._joined.values()
    assert sum(len(data) for waiting in joined._waiting.values() for data in waiting) <= relay._RELAY_BYTES
    high.sendall(b"the other way")  # goes on
    low.settimeout(10)
    assert receive(low, 13) == b"the other way"
    low.shutdown(socket.SHUT_WR)
    assert len(receive(high, sent + 1)) == sent


def test_one_that_ends_is_heard_out_and_may_still_be_answered(opened):
    low, high = relayed(opened)
    low.sendall(b"last words")
    low.shutdown(socket.SHUT_WR)
    assert receive(high, 11) == b"last words"
    high.sendall(b"heard")
    assert receive(low, 5) == b"heard"
    high.close()
    assert is_closed(low)
    until(lambda: not opened[0]._relays._joined)


def test_one_that_ends_takes_the_other_with_it_in_time(opened, monkeypatch):
    monkeypatch.setattr(relay, "_HALF_S", 0.2)
    low, high = relayed(opened)
    low.shutdown(socket.SHUT_WR)
    assert is_closed(high)
    until(lambda: not opened[0]._relays._joined)
    assert is_closed(low)


def test_an_end_that_comes_again_is_not_joined_with_itself(opened):
    old = dial(opened, FirstBytes(whom=For.RELAY, token=TOKEN, side=0))
    until(lambda: opened[0]._relays._held)
    low = dial(opened, FirstBytes(whom=For.RELAY, token=TOKEN, side=0))
    assert is_closed(old)
    high = dial(opened, FirstBytes(whom=For.RELAY, token=TOKEN, side=1))
    low.sendall(b"new")
    assert receive(high, 3) == b"new"


def test_an_end_that_comes_again_ends_what_its_other_end_thinks_is_whole(opened):
    low, high = relayed(opened)
    again = dial(opened, FirstBytes(whom=For.RELAY, number=1, token=TOKEN, side=0))
    assert is_closed(high) and is_closed(low)
    high = dial(opened, FirstBytes(whom=For.RELAY, number=1, token=TOKEN, side=1))
    high.sendall(b"new")
    assert receive(again, 3) == b"new"


def test_strangers_are_not_relayed(opened):
    assert is_closed(dial(opened, FirstBytes(whom=For.RELAY, token=bytes(16))))
    assert not opened[0]._relays._held


def test_ends_that_wait_are_bounded_and_closed_in_time(opened, monkeypatch):
    monkeypatch.setattr(relay, "_MOST_HELD", 3)
    monkeypatch.setattr(relay, "_HELD_S", 1.5)
    ends = [dial(opened, FirstBytes(whom=For.RELAY, number=number, token=TOKEN)) for number in range(6)]
    assert all(is_closed(one) for one in ends[:3])
    until(lambda: [number for (_, number), _ in opened[0]._relays._held] == [3, 4, 5])
    assert all(is_closed(one) for one in ends[3:])
