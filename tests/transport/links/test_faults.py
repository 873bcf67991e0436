# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What befalls lines over real sockets, and what comes of it."""

import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch

from geo_accel.sites import relay
from geo_accel.transport.errors import DamagedPayloadError, SiteLostError
from geo_accel.transport.identity import Identity, Message
from geo_accel.transport.links.frames import Head, Kind
from geo_accel.transport.links.links import LinksTransport
from tests.processes import eventually
from tests.transport.links.linked import LINES, Linked

LARGE = 8_000_000


def others(transport: LinksTransport) -> list[int]:
    return [peer for peer in transport.peers if peer != transport.topology.rank]


def content(rank: int, step: int, nbytes: int) -> torch.Tensor:
    return (torch.arange(nbytes, dtype=torch.int32) % 251 + rank + 3 * step).to(torch.uint8)


def swap(transport: LinksTransport, step: int = 0, nbytes: int = 1000) -> None:
    """With all others; what they say arrives."""
    rooms = {peer: torch.zeros(nbytes, dtype=torch.uint8) for peer in others(transport)}
    payload = content(transport.topology.rank, step, nbytes)
    transport.swap(dict.fromkeys(rooms, payload), rooms, Message(Identity(kind="round", step=step)))
    for peer, room in rooms.items():
        assert torch.equal(room, content(peer, step, nbytes)), (peer, step)


def shut(transport: LinksTransport, peer: int, numbers: range) -> int:
    """Ends lines as the network does, from outside; how many there were."""
    ended = 0
    for line in [transport._links[peer].lines[number] for number in numbers]:
        try:
            with socket.socket(fileno=os.dup(line.connection.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
            ended += 1
        except (AttributeError, OSError):  # it is being dialled
            pass
    return ended


@pytest.mark.parametrize("numbers", [range(1, 2), range(1), range(LINES + 1)], ids=["payload", "control", "all"])
@pytest.mark.parametrize(("sites", "breaker"), [(2, 0), (2, 1), (3, 2)], ids=["accepted", "dialled", "relayed"])
def test_lines_that_end_in_the_midst_of_a_transfer_are_dialled_again_and_it_goes_on(
    three_keys, numbers, sites, breaker
):
    ended = []

    def work(transport):
        rank = transport.topology.rank
        peer = 1 if rank == 2 else 1 - rank
        before = list(transport._links[peer].lines)
        ends = threading.Event()

        def break_again_and_again():
            pair = transport._links[peer].pair
            while not ends.is_set() and len(ended) < 4:
                if pair.number and 0 < len(pair._missing) < 58:
                    ended.append(shut(transport, peer, numbers))
                    ends.wait(0.15)
                ends.wait(0.001)

        thread = threading.Thread(target=break_again_and_again)
        if rank == breaker:
            thread.start()
        for step in range(3):
            swap(transport, step, LARGE)
        ends.set()
        if rank == breaker:
            thread.join()
        for step in range(3, 5):  # and again, over what has come back
            swap(transport, step, LARGE)
        return rank != breaker or before != transport._links[peer].lines

    with Linked(three_keys[:sites], (0,)) as linked:
        assert linked.on_all(work) == [True] * sites
    assert sum(ended) >= len(numbers)


def test_a_peer_that_does_not_come_is_named_after_the_deadline_however_much_waits(three_keys):
    over = threading.Event()

    def work(transport):
        if transport.topology.rank == 1:
            return over.wait(30)
        start = time.monotonic()
        with pytest.raises(SiteLostError, match=r"site site1 \(rank 1\) has been silent for 1 s") as caught:
            swap(transport, nbytes=LARGE)
        over.set()
        return caught.value.retryable and 1 <= time.monotonic() - start < 5

    with Linked(three_keys[:2], (0,)) as linked:
        assert linked.on_all(work, deadline_s=1.0) == [True, True]


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (1, Head(Kind.CHUNK, 2**31, 1).to_bytes()),
        (1, Head(Kind.GOT, 0, 1).to_bytes()),
        (1, b"\xff" * 40),
        (0, Head(Kind.CHUNK, 10, 1).to_bytes()),
        (0, Head(Kind.GOT, 0, 9).to_bytes()),
    ],
    ids=["too long", "no payload", "no frame", "payload for control", "of no transfer"],
)
def test_a_member_that_says_what_it_must_not_is_named(three_keys, number, data):
    connected = threading.Event()

    def work(transport):
        if transport.topology.rank == 0:
            connected.set()
        else:
            assert connected.wait(30)
            transport._links[0].lines[number].connection.send(data)
            time.sleep(0.1)
        with pytest.raises(SiteLostError) as caught:
            swap(transport, nbytes=LARGE)
        return f"{type(caught.value).__name__}: {caught.value}"

    with Linked(three_keys[:2], (0,)) as linked:
        named, _ = linked.on_all(work)
    assert named.startswith(f"{DamagedPayloadError.__name__}: site site1 (rank 1): what it sent"), named
    assert "\n" not in named


def test_who_closes_right_after_a_swap_disturbs_nobody_who_has_everything(three_keys):
    def work(transport):
        for step in range(5):
            swap(transport, step, 200_000)
        return True

    with Linked(three_keys, (0, 1, 2)) as linked:
        for _ in range(5):
            assert linked.on_all(work) == [True] * 3


def open_now() -> tuple[list[str], list[str]]:
    """Sockets of this process, and its threads, without the one that says for whom others wait and ends by itself."""
    sockets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if "socket" in target or "eventpoll" in target:
            sockets.append(target)
    threads = [thread.name for thread in threading.enumerate() if thread.name != "geo_accel waiting"]
    return sorted(sockets), sorted(threads)


def new_since(before: tuple[list[str], list[str]]) -> list[str]:
    """What is open now and was not: what earlier tests left to end by itself may have ended."""
    return [one for was, now in zip(before, open_now(), strict=True) for one in (Counter(now) - Counter(was))]


def test_close_leaves_no_socket_and_no_thread(three_keys):
    def fine(transport):
        swap(transport, 0, 10**6)

    def elsewhere(transport):
        with pytest.raises(SiteLostError):
            swap(transport, transport.topology.rank, LARGE)

    with Linked(three_keys, (0,)) as linked:
        before = open_now()
        for work in (fine, elsewhere):
            linked.on_all(work)
            assert eventually(lambda: not new_since(before), 20), new_since(before)
        with pytest.raises(SiteLostError, match=r"could not connect to site site1 .* within 1 s") as caught:
            linked.transport(0, deadline_s=0.5)
        assert caught.value.retryable
        assert eventually(lambda: not new_since(before), 20), new_since(before)


def test_connecting_to_who_does_not_come_ends_in_time(three_keys):
    with Linked(three_keys[:2], (0,)) as linked:
        start = time.monotonic()
        with pytest.raises(SiteLostError, match=r"site1 \(rank 1\) could not connect to site site0 \(rank 0\) within"):
            linked.transport(1, deadline_s=1.0)
        assert time.monotonic() - start < 5
        with closing(linked.ways(0)):  # its attempts do not stop who comes later
            pass
        assert linked.on_all(lambda transport: swap(transport)) == [None, None]


def test_what_is_changed_on_the_way_arrives_as_it_was_sent(three_keys, monkeypatch):
    """A bit of what a relay hands on: TLS ends the line, and another says the chunk again."""
    changed = []
    read = relay._Relay._read

    def change(self, connection):
        read(self, connection)
        waiting = self._waiting[self._to[connection]]
        if waiting and len(waiting[-1]) > 20_000 and len(changed) < 3:
            spoilt = bytearray(waiting[-1])
            spoilt[len(spoilt) // 2] ^= 16
            waiting[-1] = memoryview(bytes(spoilt))
            changed.append(len(spoilt))

    monkeypatch.setattr(relay._Relay, "_read", change)

    def work(transport):
        for step in range(4):
            swap(transport, step, 3_000_000)
        return True

    with Linked(three_keys, listening=[0]) as linked:
        assert linked.on_all(work) == [True] * 3
    assert len(changed) == 3


def test_who_comes_later_than_its_port_is_waited_for(three_keys):
    """A second GeoSync's lines, for one, which a site may make minutes after another."""
    with Linked(three_keys[:2], [0, 1]) as linked:

        def come(rank):
            time.sleep(4.5 if rank == 0 else 0)  # longer than a peer that was there may be refused
            with closing(linked.transport(rank)) as transport:
                swap(transport)
                return True

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(come, range(2))) == [True, True]


def test_lines_go_on_where_the_port_has_ended(three_keys):
    """At the end of a run a site's first process, which listens for all, may be the first to be done."""
    with Linked(three_keys[:2], [0]) as linked:
        connected, ended = threading.Barrier(2), threading.Event()

        def work(transport):
            connected.wait(30)
            if transport.topology.rank == 0:
                linked.ports[0].close()
                ended.set()
            assert ended.wait(30)
            for step in range(3):
                swap(transport, step, LARGE)
            return True

        assert linked.on_all(work) == [True, True]


def test_patience_learns_how_long_a_peer_was_quiet_not_how_long_a_swap_took(three_keys):
    begins = threading.Event()

    def work(transport):
        if transport.topology.rank == 1:
            assert begins.wait(60)
            time.sleep(0.5)
        begins.set()
        swap(transport, 0, LARGE)
        ((_, took),) = transport.take_swaps()
        return took, transport.quiet_s

    with Linked(three_keys[:2], (0,)) as linked:
        (took, quiet), (late_took, late_quiet) = linked.on_all(work)
    assert 0.3 < quiet < took and 0 <= late_quiet < late_took
