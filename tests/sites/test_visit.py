# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How a process comes to the meeting point, and what it lays on the shelf there, over real sockets."""

import re
import socket
import threading
import time
from dataclasses import asdict

import pytest

from geo_accel.sites import host, visit
from geo_accel.sites.meeting import Arrival
from geo_accel.sites.messages import LARGE, SMALL, hear, tell
from geo_accel.transport import waiting
from geo_accel.transport.errors import SiteLostError
from tests.sites.point import at_once, meeting_point, threads, until


def test_all_hear_of_all_and_where_they_can_be_dialled(point, visits):
    one, other = (visit.roster for visit in visits)
    assert one == other == point.host.roster
    assert [(member.name, member.addresses) for member in one.members] == [
        ("a", ("127.0.0.1:7",)),
        ("b", ("127.0.0.1:7",)),
    ]
    assert point.host.present == {"a": (1, 1), "b": (1, 1)} and point.host.missing == ""
    assert point.said == []


def test_several_processes_of_a_site(credentials_of):
    with meeting_point(credentials_of("c")) as point:
        come = [lambda place=place: point.visit(credentials_of("a"), place=place, size=3) for place in range(3)]
        all_of_them = at_once(*come, lambda: point.visit(credentials_of("b")))
        assert len({repr(one.roster) for one in all_of_them}) == 1
        assert [member.size for member in all_of_them[0].roster.members] == [3, 1]


def test_who_ends_while_he_waits_may_start_again_at_once(point, credentials_of):
    a = credentials_of("a")
    with point.secure(a) as first:
        tell(first, {"arrive": asdict(Arrival(site="a", job="first", place=0, size=1, machine="m"))})
        assert "missing" in hear(first, LARGE)
    until(lambda: point.host.present == {})
    at_once(lambda: point.visit(a, job="second"), lambda: point.visit(credentials_of("b")))
    assert point.said == []


def test_who_waits_too_long_is_told_for_whom(point, credentials_of):
    with pytest.raises(
        SiteLostError, match=r"a waited 1 s \(.*\) for 1 more of 2 sites \(there: a\): is everything started"
    ):
        point.visit(credentials_of("a"), deadline_s=1.0)
    until(lambda: point.host.present == {})


def test_a_visitor_whose_connection_broke_comes_again(credentials_of, monkeypatch):
    monkeypatch.setattr(visit, "_AGAIN_S", 0.05)
    with meeting_point(credentials_of("a"), expect=2) as point:
        breaks = threading.Event()

        def break_it() -> None:
            until(lambda: point.host.present)
            for connection in [*point.host._members]:
                host._end(connection)
            breaks.set()

        one, _, other = at_once(
            lambda: point.visit(credentials_of("a")),
            break_it,
            lambda: breaks.wait(20) and point.visit(credentials_of("b")),
        )
        assert one.roster == other.roster


def test_nobody_at_the_meeting_point(credentials_of, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = nobody.getsockname()
    arrival = Arrival(site="a", job="j", place=0, size=1, machine="m")
    with pytest.raises(SiteLostError, match=r"could not reach the meeting point at 127\.0\.0\.1:.*is its port open"):
        visit.Visit(address, credentials_of("a"), arrival, 0.6)

    def no_such_name(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(ValueError, match=r"nowhere does not resolve .*check GEO_ACCEL_MEET \(or meet\.at\)"):
        visit.Visit(("nowhere", 1), credentials_of("a"), arrival, 5)


def test_whoever_answers_and_is_no_meeting_point_is_said_with_the_reason(credentials_of, monkeypatch, caplog):
    """Another program has the port: it is waited for, since it may end, and said what came."""
    monkeypatch.setattr(waiting, "FIRST_S", 0.5)
    arrival = Arrival(site="a", job="j", place=0, size=1, machine="m")
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            while True:
                connection = other.accept()[0]
                if connection.recv(1000) == b"end":
                    return
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

        def come() -> None:
            with pytest.raises(
                SiteLostError, match=r"could not reach .* within 2 s \(resilience.patience_s; .*\): does"
            ):
                visit.Visit(other.getsockname(), credentials_of("a"), arrival, 2.0)
            socket.create_connection(other.getsockname()).sendall(b"end")

        at_once(answer, come)
    assert any(
        re.match(r"a: meeting: has been waiting for the meeting point at 127\S+ \(.+\) for", line)
        for line in caplog.messages
    )


# ---- the shelf


def test_what_one_lays_down_the_other_finds(shelves):
    one, other = shelves
    assert other.has("k") is False and other.wait(["k"], 0.0) is None
    one.set("k", "ü" * 1000)
    assert other.has("k") and other.wait(["k"], 5.0) == ["ü" * 1000]
    one.set("k", "2")
    one.set("l", "3")
    assert other.wait(["l", "k"], 5.0) == ["3", "2"]
    other.delete(["k", "nothing"])
    assert one.has("k") is False and one.has("l")


def test_keys_of_unlike_prefixes_are_apart(visits):
    one, other = visits[0].shelf("x/"), visits[0].shelf("y/")
    one.set("k", "1")
    assert other.has("k") is False
    one.close()
    other.close()


def test_who_waits_is_woken(shelves):
    one, other = shelves
    start = time.monotonic()

    def set_late() -> None:
        time.sleep(0.3)
        one.set("k", "1")
        one.set("l", "2")

    texts, _ = at_once(lambda: other.wait(["k", "l"], 30.0), set_late)
    assert texts == ["1", "2"] and time.monotonic() - start < 5


def test_a_wait_ends_in_time(shelves):
    start = time.monotonic()
    assert shelves[0].wait(["never"], 0.5) is None
    assert 0.4 < time.monotonic() - start < 5


def test_a_connection_that_broke_is_made_again(point, shelves, monkeypatch):
    monkeypatch.setattr(visit, "_AGAIN_S", 0.05)
    one, other = shelves
    one.set("k", "1")
    for connection in [*point.host._members]:
        host._end(connection)
    assert one.wait(["k"], 5.0) == ["1"]

    def break_while_it_waits() -> None:
        time.sleep(0.2)
        for connection in [*point.host._members]:
            host._end(connection)
        one.set("l", "2")

    assert at_once(lambda: other.wait(["l"], 20.0), break_while_it_waits)[0] == ["2"]


def test_a_meeting_point_that_is_gone_is_a_connection_error(point, shelves, monkeypatch):
    monkeypatch.setattr(visit, "_AGAIN_S", 0.05)
    monkeypatch.setattr(visit, "_REDIAL_S", 0.3)
    point.port.close()
    point.host.close()
    with pytest.raises(ConnectionError):
        shelves[0].set("k", "1")


def test_one_that_was_started_anew_does_not_know_the_run(credentials_of, visits):
    one = visits[0]
    with meeting_point(credentials_of("a")) as another:
        one.address = another.address
        start = time.monotonic()
        with pytest.raises(ConnectionError, match="another run than the one that it was in"):
            one.shelf("x").set("k", "1")
        assert time.monotonic() - start < 5  # asked again, it would say the same


def test_a_site_that_did_not_come_has_no_shelf(point, visits, credentials_of):
    with point.secure(credentials_of("c")) as connection:
        tell(connection, {"shelf": visits[0].roster.run})
        assert "c shows another certificate than it came with" in hear(connection, SMALL)["refused"]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"do": "get"},
        {"do": "burn", "keys": ["k"]},
        {"do": "set", "keys": [], "text": "x"},
        {"do": "set", "keys": [1], "text": "x"},
        {"do": "set", "keys": ["k"], "text": 1},
        {"do": "get", "keys": ["k"], "wait_s": "soon"},
        {"do": "get", "keys": ["k"], "wait_s": 10**400},
        {"do": ["get"], "keys": ["k"]},
        {"do": "has", "keys": None},
    ],
    ids=str,
)
def test_what_no_shelf_is_asked_is_refused_and_the_next_is_answered(point, visits, credentials_of, asked):
    with point.secure(credentials_of("a")) as connection:
        connection.settimeout(10)
        tell(connection, {"shelf": visits[0].roster.run})
        assert hear(connection, SMALL) == {"open": True}
        tell(connection, asked)
        assert "not of this version" in hear(connection, SMALL)["refused"]
        tell(connection, {"do": "has", "keys": ["k"]})
        assert hear(connection, SMALL) == {"has": False}


def test_who_ends_while_he_waits_at_the_shelf_leaves_no_thread(point, visits, credentials_of, monkeypatch):
    monkeypatch.setattr(host, "_LOOK_S", 0.1)
    before = len(threads("geo_accel meeting"))
    with point.secure(credentials_of("a")) as connection:
        tell(connection, {"shelf": visits[0].roster.run})
        hear(connection, SMALL)
        tell(connection, {"do": "get", "keys": ["never"], "wait_s": 1e300})
        until(lambda: len(threads("geo_accel meeting")) == before + 1)
    until(lambda: len(threads("geo_accel meeting")) == before)
