# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The meeting point as it serves, over real sockets: whom it refuses, what strangers do to it, how it ends."""

import json
import os
import random
import socket
import ssl
import time
import tracemalloc
from dataclasses import asdict

import pytest

from geo_accel.sites import authority, host
from geo_accel.sites.credentials import read_credentials
from geo_accel.sites.first_bytes import relay_token
from geo_accel.sites.meeting import Arrival
from geo_accel.sites.messages import LARGE, SMALL, hear, tell
from tests.sites.point import at_once, meeting_point, threads, until

# ---- refused


def test_a_refusal_reaches_who_came_and_who_watches(point, credentials_of):
    with pytest.raises(ValueError, match="refuses c: a process calls itself site c, but its key file is a's"):
        point.visit(credentials_of("a"), site="c")
    until(lambda: point.said)
    assert len(point.said) == 1
    assert point.said[0].startswith("refused 127.0.0.1: a process calls itself site c, but its key file is a's")


@pytest.mark.parametrize("turn", range(5))
def test_another_authority_is_refused_by_both(point, folder, turn):
    """Whichever end notices first."""
    with pytest.raises(ValueError, match="are both key files of the same authority"):
        point.visit(read_credentials(folder / "a.pem"))


def test_a_stranger_whom_the_meeting_point_refuses_is_named(point, keys, folder, credentials_of):
    """One who would take anybody's certificate."""
    stranger = read_credentials(folder / "a.pem")
    stranger.client().load_verify_locations(cadata=credentials_of("a").authority)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"it does not take this end's certificate .*unknown"):
            point.visit(stranger)
    until(lambda: point.said)
    assert len(point.said) == 1 and "refused 127.0.0.1: it proves to be no site of this run" in point.said[0]


def test_no_certificate_at_all(point, credentials_of):
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.load_verify_locations(cadata=credentials_of("a").authority)
    with nobody.wrap_socket(point.dial()) as connection, pytest.raises(ssl.SSLError):
        tell(connection, {"shelf": "r"})
        hear(connection, SMALL)
    until(lambda: point.said)
    assert "it proves to be no site of this run" in point.said[0]


def test_a_removed_site_is_refused_and_a_renewed_one_is_not(folder):
    old = read_credentials(folder / "a.pem")
    authority.add(folder, "a")
    with meeting_point(read_credentials(folder / "b.pem")) as point:
        with pytest.raises(ValueError, match="a's certificate was removed: ask for a new key file"):
            point.visit(old)
        until(lambda: point.said)
        assert "a's certificate was removed" in point.said[0]
        renewed = read_credentials(folder / "a.pem")
        b = read_credentials(folder / "b.pem")
        at_once(lambda: point.visit(renewed), lambda: point.visit(b))


def test_a_removed_site_is_no_meeting_point(folder):
    old = read_credentials(folder / "a.pem")
    authority.add(folder, "a")
    with meeting_point(old) as point, pytest.raises(ValueError, match="shows a's certificate, which was removed"):
        point.visit(read_credentials(folder / "b.pem"))


def test_one_that_ends_meanwhile(folder, long_ago, monkeypatch):
    path = authority.add(folder, "a", days=10, now=long_ago)
    ended = read_credentials(folder / "b.pem")
    ended.client().load_cert_chain(path)
    with meeting_point(read_credentials(folder / "b.pem")) as point:
        with pytest.raises(ValueError, match=r"certificate.expired"):
            point.visit(ended)
        until(lambda: point.said)
        assert "certificate has expired" in point.said[0]


def test_a_flood_of_refusals_fills_no_log(point, credentials_of, monkeypatch):
    lines = [f"line {number}" for number in range(100)]
    for line in [*lines, *lines]:
        point.host._say(line, 16)
    assert len(point.said) == 16
    point.host._say("a member's")
    assert point.said[-1] == "a member's"


# ---- strangers


def test_a_stranger_who_says_nothing_disturbs_nobody_and_is_dropped(point, visits, shelves, monkeypatch):
    monkeypatch.setattr(host, "_HANDSHAKE_S", 0.5)
    with point.dial() as silent:
        shelves[0].set("k", "1")
        assert shelves[1].wait(["k"], 5.0) == ["1"]
        silent.settimeout(10)
        assert silent.recv(1) == b""


def test_silent_strangers_are_bounded_and_the_oldest_makes_way(point, credentials_of, monkeypatch):
    monkeypatch.setattr(host, "_MOST_STRANGERS", 4)
    silent = [point.dial() for _ in range(12)]
    until(lambda: len(point.host._strangers) == 4)
    until(lambda: len(threads("geo_accel meeting")) == 4)
    a, b = at_once(lambda: point.visit(credentials_of("a")), lambda: point.visit(credentials_of("b")))
    assert a.roster == b.roster
    for one in silent:
        one.close()
    until(lambda: not point.host._strangers)


def test_a_message_that_announces_too_much_takes_no_memory(point, visits, credentials_of):
    with point.secure(credentials_of("a")) as connection:
        connection.settimeout(10)
        tracemalloc.start()
        try:
            connection.sendall((2**32 - 1).to_bytes(4, "big") + b"x" * 1000)
            assert connection.recv(1) == b""
            assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
        finally:
            tracemalloc.stop()


def test_garbage_instead_of_tls(point, visits, shelves):
    for size in (1, 100, 100_000):
        with point.dial() as connection:
            connection.settimeout(10)
            try:
                connection.sendall(random.Random(size).randbytes(size))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except ConnectionError:
                pass
    shelves[0].set("k", "1")
    assert shelves[1].wait(["k"], 5.0) == ["1"]


ODD = [None, True, -1, 10**40, 1.5, "", "k", "\x00", "x" * 300, [], ["k"], ["k", 1], {}, {"k": []}, ["get"]]


def fuzzed(rng: random.Random) -> bytes:
    """What a shelf is asked, with other things in it; now and then no message at all, which ends a connection."""
    if rng.random() < 0.0003:
        body = rng.randbytes(rng.randrange(40))
        return len(body).to_bytes(4, "big") + body
    asked = {"do": rng.choice(["set", "get", "delete", "has"]), "keys": ["k"], "text": "x"}
    for _ in range(rng.randrange(3)):
        asked[rng.choice([*asked, "wait_s", "more"])] = rng.choice(ODD)
    if asked["do"] == "get":
        asked["wait_s"] = rng.choice([0.0, -1, None, "x"])
    body = json.dumps(asked).encode()
    return len(body).to_bytes(4, "big") + body


def test_a_hundred_thousand_fuzzed_messages_are_answered_or_end_the_connection(point):
    rng, near, far = random.Random(0), *socket.socketpair()
    with near, far:
        for _ in range(100_000):
            near.sendall(fuzzed(rng))
            try:
                answer = point.host._answer(hear(far, LARGE), lambda: False)
            except ConnectionError:
                continue
            assert answer.keys() <= {"texts", "has", "refused"}


def test_fuzzed_messages_of_a_member_disturb_nobody(point, visits, shelves, credentials_of):
    rng, heard, connections = random.Random(1), [0], 0
    rest = [fuzzed(rng) for _ in range(10_000)]
    while rest:
        connections += 1
        with point.secure(credentials_of("a")) as connection:
            connection.settimeout(20)
            tell(connection, {"shelf": visits[0].roster.run})
            hear(connection, SMALL)
            heard[0] = 0
            for at in range(0, len(rest), 50):  # as many as both ends' buffers hold the answers to
                try:
                    connection.sendall(b"".join(rest[at : at + 50]))
                    for _ in rest[at : at + 50]:
                        hear(connection, LARGE)
                        heard[0] += 1
                except OSError:
                    break
            rest = rest[heard[0] + 1 :]
    assert connections > 2
    shelves[0].set("k", "1")
    assert shelves[1].wait(["k"], 5.0) == ["1"]
    assert point.host.present == {"a": (1, 1), "b": (1, 1)}


# ---- the end


def test_closing_leaves_no_thread_and_no_open_file(credentials_of):
    before_threads, before_files = threads("geo_accel meeting"), len(os.listdir("/proc/self/fd"))
    with meeting_point(credentials_of("a"), expect=2) as point:
        a, b = at_once(lambda: point.visit(credentials_of("a")), lambda: point.visit(credentials_of("b")))
        shelf = a.shelf("x")
        shelf.set("k", "1")
        silent = point.dial()
        waits = point.secure(credentials_of("c"))
        start = time.monotonic()
    assert time.monotonic() - start < 5
    for one in (a, b, shelf, silent, waits):
        one.close()
    until(lambda: threads("geo_accel meeting") == before_threads)
    until(lambda: len(os.listdir("/proc/self/fd")) <= before_files)


def test_who_waits_for_others_when_it_closes_is_told_by_a_broken_connection(credentials_of):
    with meeting_point(credentials_of("a"), expect=2) as point:
        connection = point.secure(credentials_of("a"))
        connection.settimeout(10)
        tell(connection, {"arrive": asdict(Arrival(site="a", job="j", place=0, size=1, machine="m"))})
        assert "missing" in hear(connection, LARGE)
    with pytest.raises(ConnectionError):
        while True:
            hear(connection, LARGE)
    connection.close()


def test_only_members_pairs_are_relayed(point, credentials_of):
    assert not point.host.relays(relay_token("00" * 16, 0, 1))
    a, _ = at_once(lambda: point.visit(credentials_of("a")), lambda: point.visit(credentials_of("b")))
    assert point.host.relays(relay_token(a.roster.secret, 0, 1))
    assert not point.host.relays(relay_token("00" * 16, 0, 1))
    assert not point.host.relays(relay_token(a.roster.secret, 1, 0))
    assert not point.host.relays(bytes(16))
