# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import contextlib
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.sites.meeting import AT_MEETING, Arrival, Meeting, Roster, Shelf


def arrival(site: str, place: int = 0, size: int = 1, **more) -> Arrival:
    return Arrival(
        **{"site": site, "job": f"job of {site}", "place": place, "size": size, "machine": f"m{place}"} | more
    )


def arrive(meeting: Meeting, one: Arrival, shown: str | None = None, fingerprint: str = "f") -> str | None:
    return meeting.arrive(one, shown or one.site, fingerprint)


def meeting(expect: int | None = None) -> Meeting:
    return Meeting(expect, run="r", secret="5e")


SITES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 3), min_size=2, max_size=4)


@given(SITES, st.booleans(), st.data())
def test_any_order_of_arrivals_gives_the_same_roster(sizes, told_here, data):
    """Some come, leave and come again before all are there."""
    ends = [
        arrival(site, place, size, address=f"{site}:1", expect=None if told_here else len(sizes))
        for site, size in sizes.items()
        for place in range(size)
    ]
    point = meeting(len(sizes) if told_here else None)
    for one in data.draw(st.permutations(ends)):
        assert point.roster is None
        assert arrive(point, one, fingerprint=f"of {one.site}") is None
        if point.roster is None and data.draw(st.booleans()):
            point.leave(one)
            assert arrive(point, replace(one), fingerprint=f"of {one.site}") is None
    assert point.roster is not None and point.missing == ""
    assert [(member.name, member.size) for member in point.roster.members] == sorted(sizes.items())
    for member in point.roster.members:
        assert member.machines == tuple(f"m{place}" for place in range(member.size))
        assert member.addresses == (f"{member.name}:1",) * member.size
        assert member.fingerprints == (f"of {member.name}",)
    assert Roster.from_json(point.roster.to_json()) == point.roster


def test_two_sites_unless_somebody_says_otherwise():
    point = meeting()
    assert arrive(point, arrival("a")) is None and point.roster is None
    assert point.missing == "1 more of 2 sites (there: a)"
    assert arrive(point, arrival("b")) is None and point.roster is not None


def test_one_site_may_say_how_many():
    point = meeting()
    assert arrive(point, arrival("a")) is None
    assert arrive(point, arrival("b", expect=3)) is None and point.roster is None
    assert point.missing == "1 more of 3 sites (there: a, b)"


def test_who_is_missing_is_said_by_process():
    point = meeting()
    arrive(point, arrival("a", 1, 4))
    assert point.missing == "3 of 4 processes of a; 1 more of 2 sites (there: a)"
    assert point.present == {"a": (1, 4)}


def test_one_process_too_few_is_not_all():
    point = meeting()
    for one in (arrival("a", 0, 2), arrival("b"), arrival("a", 0, 2)):
        assert arrive(point, one) is None
    assert point.roster is None


# ---- refused


def test_two_sites_of_one_name():
    point = meeting()
    arrive(point, arrival("a"))
    refused = arrive(point, arrival("a", job="another"))
    assert refused == "there are two sites called a: give each a name and a key file of its own."


def test_processes_that_say_unlike_sizes():
    point = meeting()
    arrive(point, arrival("a", 0, 2))
    assert arrive(point, arrival("a", 1, 3)) == "a has 2 processes by one, 3 by another."


@pytest.mark.parametrize("first, told_by", [(None, "a"), (3, "the meeting point")])
def test_contradicting_numbers_of_sites_name_who_said_what(first, told_by):
    point = meeting(first)
    arrive(point, arrival("a", expect=3))
    assert f"b expects 2 sites, {told_by} 3: say the same everywhere" in (arrive(point, arrival("b", expect=2)) or "")


def test_what_one_said_who_has_left_does_not_count():
    point = meeting()
    wrong = arrival("a", expect=3)
    arrive(point, wrong)
    point.leave(wrong)
    assert arrive(point, arrival("a", job="started anew", expect=2)) is None
    assert arrive(point, arrival("b", expect=2)) is None and point.roster is not None


def test_unlike_versions_name_both():
    refused = arrive(meeting(), arrival("a", version="0.0.1"))
    assert refused and "a has geo_accel 0.0.1, the meeting point " in refused and "install the same version" in refused


def test_a_name_that_is_not_the_certificates():
    refused = arrive(meeting(), arrival("a"), shown="b")
    assert refused and "calls itself site a, but its key file is b's" in refused


def test_a_site_too_many_is_refused_whether_the_others_are_whole_or_not():
    point = meeting(2)
    for site in "ab":
        arrive(point, arrival(site, 0, 2))
    assert "c is one too many: 2 sites are expected, and a, b are here" in (arrive(point, arrival("c")) or "")
    for site in "ab":
        arrive(point, arrival(site, 1, 2))
    assert point.roster is not None
    refused = arrive(point, arrival("c"))
    assert refused == "this run has begun, with the sites a, b; c is too late. Is GEO_ACCEL_EXPECT right?"


def test_one_who_expects_fewer_than_are_there():
    point = meeting()
    for site in "ab":
        arrive(point, arrival(site, 0, 2))
    assert "c is one too many: 1 sites" in (arrive(point, arrival("c", expect=1)) or "")


# ---- leaving and coming again


def test_who_leaves_before_all_are_there_is_as_if_he_had_not_come():
    point = meeting()
    one = arrival("a", 0, 2)
    arrive(point, one)
    point.leave(one)
    assert point.present == {} and point.missing == "2 more of 2 sites (there: none)"
    assert arrive(point, arrival("a", job="started anew")) is None


def test_an_old_connection_that_ends_late_does_not_take_its_successor_with_it():
    point = meeting()
    old, new = arrival("a"), arrival("a")
    assert old == new
    arrive(point, old)
    arrive(point, new)
    point.leave(old)
    assert point.present == {"a": (1, 1)}


def test_one_that_is_in_may_come_again_once_all_are_there():
    """As when the connection breaks over which it would have been told."""
    point = meeting()
    first = arrival("a")
    arrive(point, first)
    arrive(point, arrival("b"))
    point.leave(first)
    assert point.present == {"a": (0, 1), "b": (1, 1)} and "1 of 1 processes of a" in point.missing
    assert arrive(point, arrival("a")) is None
    assert point.present == {"a": (1, 1), "b": (1, 1)}
    assert "too late" in (arrive(point, arrival("a"), fingerprint="another") or "")
    assert arrive(point, arrival("a", job="started anew")) == (
        "this run has begun, with the sites a, b; another a is too late. Is it a second site by that name, or the "
        "same one, started anew? A run goes on with the jobs that it began with."
    )
    assert "too late" in (arrive(point, arrival("a", 1, 2)) or "")


# ---- what comes as JSON


@pytest.mark.parametrize("address", [None, AT_MEETING, ":1", "host.example-1.org:29400", "10.0.0.1:65535", "[::1]:22"])
def test_an_arrival_survives_json(address):
    one = arrival("a", 1, 2, address=address, expect=3)
    assert Arrival.from_json(asdict(one)) == one


@pytest.mark.parametrize(
    "change",
    [
        {"site": ""},
        {"site": "a\n"},
        {"site": "x" * 64},
        {"site": 1},
        {"place": -1},
        {"place": 1},
        {"place": True},
        {"size": 0},
        {"size": 5000, "place": 0},
        {"size": 1.0},
        {"machine": "m" * 256},
        {"machine": "\x1b[31m"},
        {"job": None},
        {"expect": 0},
        {"expect": "2"},
        {"address": "host"},
        {"address": "host:"},
        {"address": "host:99999999"},
        {"address": "a b:1"},
        {"address": "[::1:1"},
        {"version": None},
        {"more": 1},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_no_arrival(change):
    with pytest.raises(ValueError):
        Arrival.from_json(asdict(arrival("a")) | change)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(JSON | st.fixed_dictionaries({name: JSON for name in asdict(arrival("a"))}))
def test_arrivals_and_rosters_are_read_or_refused(content):
    for read in (Arrival.from_json, Roster.from_json):
        with contextlib.suppress(ValueError):
            read(content)


def test_a_shelf():
    shelf = Shelf()
    shelf.set("a", "1")
    assert shelf.get(["a"]) == ["1"] and shelf.get(["a", "b"]) is None
    shelf.set("a", "2")
    shelf.set("b", "3")
    assert shelf.get(["b", "a"]) == ["3", "2"]
    shelf.delete(["a", "nothing"])
    assert shelf.get(["a"]) is None and shelf.get(["b"]) == ["3"]
