# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.membership.generation import Generation
from geo_accel.membership.member import Member, Record, Times
from geo_accel.membership.messages import Accept, Accepted, Alive, Decided, Join, Prepare, Promise
from geo_accel.membership.succession import Votes
from geo_accel.membership.wire import as_json, from_json, record_as_json, record_from_json

counts = st.integers(0, 2**53 - 1)
names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
pairs = st.tuples(counts, counts)
ballots = st.tuples(counts, names)
members = st.sets(names, min_size=1, max_size=5).map(lambda some: tuple(sorted(some)))
generations = st.builds(Generation, counts, members, counts, st.none() | pairs)
accepted = st.none() | st.tuples(ballots, generations)
messages = st.one_of(
    st.builds(Alive, counts, st.booleans()),
    st.builds(Join, counts, pairs),
    st.builds(Prepare, counts, ballots),
    st.builds(Promise, counts, ballots, accepted, counts, st.booleans(), pairs),
    st.builds(Accept, counts, ballots, generations),
    st.builds(Accepted, counts, ballots),
    st.builds(Decided, counts, st.lists(generations, max_size=4).map(tuple)),
)
some_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=10,
)


@given(messages)
def test_a_message_arrives_as_it_was(message):
    assert from_json(json.loads(json.dumps(as_json(message)))) == message


@given(ballots, accepted, st.lists(members, max_size=4))
def test_a_record_is_read_as_it_was_written(promised, accepted, history):
    record = Record(tuple(Generation(n, one) for n, one in enumerate(history, 1)), Votes(promised, accepted))
    assert record_from_json(json.loads(json.dumps(record_as_json(record)))) == record


@given(messages, st.data())
def test_what_cannot_be_meant_is_refused_or_meant(message, data):
    """With a field of anything else it is refused in one line, or harmless to hear."""
    content = json.loads(json.dumps(as_json(message)))
    name = data.draw(st.sampled_from(sorted(content)))
    content[name] = data.draw(some_json)
    try:
        heard = from_json(content)
    except ValueError as error:
        assert "\n" not in str(error)
        assert "members" in str(error)
    else:
        first = Generation(1, ("a", "b", "c"))
        Member("b", Record((first,)), holds=True, times=Times(), now=0.0).hear("a", heard, 0.0)


@given(some_json)
def test_other_json_is_no_message_and_no_record(content):
    for read in (from_json, record_from_json):
        with pytest.raises(ValueError, match="members"):
            read(content)


@pytest.mark.parametrize(
    "history",
    [
        [{"number": n, "members": ["a"], "counted": 0, "back_to": None} for n in (1, 3)],
        [{"number": 1, "members": ["a", "a"], "counted": 0, "back_to": None}],
        [{"number": 1, "members": [], "counted": 0, "back_to": None}],
        [{"number": 1, "members": ["a"], "counted": -1, "back_to": None}],
        [{"number": True, "members": ["a"], "counted": 0, "back_to": None}],
        [{"number": 1, "members": ["a"], "counted": 0, "back_to": [1]}],
    ],
)
def test_a_record_that_was_changed_is_refused(history):
    with pytest.raises(ValueError, match="members"):
        record_from_json({"history": history, "promised": [0, ""], "accepted": None})
