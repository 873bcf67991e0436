# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.transport.links.frames import FrameError
from geo_accel.transport.links.hello import MOST_LINES, Hello

MINE = Hello(run="a1b2c3d4e5", generation=1, sender=0, receiver=2, line=3)
THEIRS = replace(MINE, sender=2, receiver=0)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANY_JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
LIKE_A_HELLO = st.fixed_dictionaries({name: LEAVES | ANY_JSON for name in asdict(MINE)})


def read(data):
    """The hello that `data` is, None for none; never another error."""
    try:
        return Hello.from_bytes(data)
    except FrameError as error:
        assert "\n" not in str(error)
        return None


@given(st.text(), st.integers(0), st.integers(0), st.integers(0), st.integers(0), st.integers(0))
def test_what_was_said_is_heard(run, generation, sender, receiver, line, protocol):
    hello = Hello(run=run, generation=generation, sender=sender, receiver=receiver, line=line, protocol=protocol)
    assert read(hello.to_bytes()) == hello
    problem = hello.problem_for(MINE, frozenset({2}))
    assert problem is not None and "\n" not in problem  # the run is another


@given(ANY_JSON | LIKE_A_HELLO)
def test_any_json_is_a_hello_or_a_frame_error(content):
    hello = read(json.dumps(content).encode())
    if hello is not None:
        assert asdict(hello) == content
        hello.problem_for(MINE, frozenset({2}))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_hello_or_a_frame_error(data):
    read(data)


@pytest.mark.parametrize("data", [b"[" * 4096, b'{"a":' * 800, b"9" * 4096, b"\xff\xfe{}", b""])
def test_what_readers_of_json_choke_on_is_a_frame_error(data):
    assert read(data) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"protocol": 2}, "it speaks protocol 2, this end 1: install the same version everywhere"),
        ({"run": "\ud800\nother"}, r"it is of run '\ud800\nother', this end of run 'a1b2c3d4': is a process"),
        ({"generation": 0}, "it is of generation 0, this end of 1"),
        ({"receiver": 1}, "it is for rank 1, this end is rank 0"),
        ({"sender": 5}, "rank 5 has no line to rank 0"),
        ({"line": MOST_LINES}, "there is no line 64"),
        ({"line": -1}, "there is no line -1"),
    ],
)
def test_one_that_does_not_fit_is_refused_with_what_is_wrong(changed, said):
    assert THEIRS.problem_for(MINE, frozenset({2})) is None
    problem = replace(THEIRS, **changed).problem_for(MINE, frozenset({2}))
    assert problem is not None and problem.startswith(said)
