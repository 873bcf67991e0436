# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import os
import random
import select
import socket
import tempfile
import time
from contextlib import ExitStack

import pytest

from geo_accel.sites import port
from geo_accel.sites.first_bytes import FIRST_BYTES, FirstBytes, For
from geo_accel.sites.port import Arrivals, Port
from tests.sites.point import TOKEN, dial, is_closed, relayed, threads, until


def arrivals(opened, place: int = 0) -> Arrivals:
    one, _, stack = opened
    found = Arrivals(one.door, place)
    stack.callback(found.close)
    until(lambda: place in one._processes)
    return found


def taken(found: Arrivals, count: int = 1) -> list[socket.socket]:
    connections: list[socket.socket] = []
    end = time.monotonic() + 10
    while len(connections) < count and time.monotonic() < end:
        select.select([found], [], [], 1.0)
        connections += found.take()
    return connections


# ---- handing on


def test_a_process_of_the_site_is_given_the_connection_itself(opened):
    first, second = arrivals(opened, 0), arrivals(opened, 1)
    near = dial(opened, FirstBytes(whom=For.PROCESS, number=1))
    near.sendall(b"hello")
    (far,) = taken(second)
    assert first.take() == []
    opened[0].close()  # nothing passes through it any more
    with far:
        far.settimeout(10)
        assert far.recv(5) == b"hello"
        far.sendall(b"back")
        assert near.recv(4) == b"back"


def test_many_arrive_at_once(opened):
    found = arrivals(opened)
    for _ in range(50):
        dial(opened, FirstBytes(whom=For.PROCESS))
    connections = taken(found, 50)
    assert len(connections) == 50
    for one in connections:
        one.close()


def test_one_for_a_process_that_is_not_there_is_closed(opened):
    arrivals(opened, 0)
    assert is_closed(dial(opened, FirstBytes(whom=For.PROCESS, number=7)))


def test_a_process_that_has_ended_makes_room_for_its_successor(opened):
    arrivals(opened, 0).close()
    until(lambda: not opened[0]._processes)
    assert is_closed(dial(opened, FirstBytes(whom=For.PROCESS)))
    found = arrivals(opened, 0)
    dial(opened, FirstBytes(whom=For.PROCESS))
    (far,) = taken(found)
    far.close()


def test_a_process_that_takes_nothing_stops_nobody(opened):
    found = arrivals(opened, 0)
    idle = [dial(opened, FirstBytes(whom=For.PROCESS)) for _ in range(400)]
    assert is_closed(idle[-1])
    dial(opened, FirstBytes(whom=For.MEETING))
    until(lambda: opened[1])
    for one in taken(found, 100):
        one.close()


def test_processes_learn_that_their_port_has_ended(opened):
    found = arrivals(opened, 0)
    opened[0].close()
    with pytest.raises(ConnectionError, match="the site's first process, which listens for all, has ended"):
        taken(found)


def test_without_a_port_nothing_arrives():
    found = Arrivals(None, 0)
    assert found.take() == [] and select.select([found], [], [], 0) == ([], [], [])
    found.close()


def test_the_meeting_point_is_given_what_is_for_it(opened):
    near = dial(opened, FirstBytes(whom=For.MEETING))
    until(lambda: opened[1])
    opened[1][0].sendall(b"hello")
    assert near.recv(5) == b"hello"


def test_without_a_meeting_point_or_relays_they_are_for_nobody():
    with ExitStack() as stack:
        one = Port("127.0.0.1", 0)
        stack.callback(one.close)
        for whom in (For.MEETING, For.RELAY):
            assert is_closed(dial((one, [], stack), FirstBytes(whom=whom, token=TOKEN)))


# ---- strangers


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", bytes(FIRST_BYTES), b"\xff" * 1000])
def test_garbage_is_closed(opened, data):
    assert is_closed(dial(opened, data))


def test_half_open_strangers_are_bounded_and_dropped_in_time(opened, monkeypatch):
    monkeypatch.setattr(port, "_MOST_STRANGERS", 8)
    monkeypatch.setattr(port, "_STRANGER_S", 1.5)
    half = [dial(opened, FirstBytes(whom=For.MEETING).to_bytes()[: number % FIRST_BYTES]) for number in range(40)]
    assert all(is_closed(one) for one in half[:32])
    until(lambda: len(opened[0]._strangers) == 8)
    dial(opened, FirstBytes(whom=For.MEETING))
    until(lambda: opened[1])
    assert all(is_closed(one) for one in half)


def test_a_flood_of_strangers_that_all_speak_at_once_ends_no_thread(opened, monkeypatch):
    """Where one is dropped for another whose bytes were waiting to be read in the same turn."""
    monkeypatch.setattr(port, "_MOST_STRANGERS", 3)
    rng = random.Random(0)
    for _ in range(40):
        batch = [dial(opened, rng.randbytes(rng.randrange(1, 40))) for _ in range(20)]
        for one in batch:
            one.close()
    dial(opened, FirstBytes(whom=For.MEETING))
    until(lambda: opened[1])
    assert opened[0]._thread.is_alive()


def test_fuzzed_first_bytes(opened):
    rng = random.Random(1)
    goods = [FirstBytes(whom=whom, token=TOKEN, number=number).to_bytes() for whom in (2, 3) for number in range(3)]
    for _ in range(2_000):
        data = bytearray(rng.choice(goods))
        for _ in range(rng.randrange(3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with socket.create_connection(("127.0.0.1", opened[0].number), timeout=10) as one:
            one.sendall(data)
    dial(opened, FirstBytes(whom=For.MEETING))
    until(lambda: opened[1])
    assert opened[0]._thread.is_alive()


def test_no_more_files_costs_strangers_not_the_port(opened, monkeypatch):
    """Said by a stand-in: a process without files could not test anything else."""
    one = opened[0]
    half = dial(opened, b"g")
    until(lambda: len(one._strangers) == 1)
    real, full = one._listening, [True]

    class Full:
        def accept(self):
            if full[0]:
                raise OSError(24, os.strerror(24))
            return real.accept()

        def close(self):
            real.close()

    one._listening = Full()
    late = dial(opened, FirstBytes(whom=For.MEETING))
    assert is_closed(half)
    full[0] = False
    until(lambda: opened[1])
    opened[1][0].sendall(b"x")
    assert late.recv(1) == b"x"


# ---- listening and closing


def test_a_port_that_is_taken_is_one_line(opened):
    with pytest.raises(ValueError) as error:
        Port("127.0.0.1", opened[0].number)
    assert str(error.value) == (
        f"cannot listen at 127.0.0.1, port {opened[0].number} (Address already in use): another program, or another "
        "run, listens there: choose another port."
    )


@pytest.mark.parametrize("host, number", [("192.0.2.1", 0), ("127.0.0.1", 70000), ("127.0.0.1", -1), ("no host", 0)])
def test_what_cannot_be_listened_at_is_one_line(host, number):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=f"^cannot listen at {host}, port {number}.*: .*") as error:
        Port(host, number)
    assert "\n" not in str(error.value)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("host", ["", "127.0.0.1", "localhost"])
def test_it_can_be_reached_by_all_names_that_it_has(host):
    with ExitStack() as stack:
        came: list[socket.socket] = []
        one = Port(host, 0, came.append)
        stack.callback(one.close)
        near = stack.enter_context(socket.create_connection((host or "127.0.0.1", one.number), timeout=10))
        near.sendall(FirstBytes(whom=For.MEETING).to_bytes())
        until(lambda: came)
        came[0].close()


def test_closing_leaves_no_thread_no_folder_and_no_open_file():
    before_threads, before_files = threads("geo_accel port"), len(os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        one = Port("127.0.0.1", 0, None, lambda _: True)
        opened = (one, [], stack)
        arrivals(opened)
        relayed(opened)
        dial(opened, b"geo")
        dial(opened, FirstBytes(whom=For.RELAY, number=9, token=TOKEN))
        until(lambda: one._relays._held and one._strangers)
        folder = one.door.parent
        assert oct(folder.stat().st_mode)[-3:] == "700"
        one.close()
        one.close()
        assert not folder.exists() and threads("geo_accel port") == before_threads
    assert len(os.listdir("/proc/self/fd")) == before_files


def test_a_long_temporary_folder_is_no_hindrance(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 120)))
    (tmp_path / ("x" * 120)).mkdir()
    one = Port("127.0.0.1", 0)
    assert len(str(one.door)) < 107
    one.close()
    assert not one.door.parent.exists() and list((tmp_path / ("x" * 120)).iterdir()) == []
