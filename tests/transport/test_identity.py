# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Messages that say what they are: whoever is elsewhere is named, by everybody in the same words."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from geo_accel.transport.identity import HEADER_BYTES, KINDS, Header, Identity, disagreement

identities = st.builds(
    Identity,
    kind=st.sampled_from(sorted(KINDS)),
    step=st.integers(0, 2**40),
    number=st.integers(0, 2**20),
    phase=st.integers(0, 3),
    plan=st.integers(0, 2**32 - 1),
    plan_number=st.integers(0, 1000),
    generation=st.integers(0, 1000),
)
headers = st.builds(
    Header,
    identity=identities,
    wishes=st.integers(0, 7),
    nbytes=st.integers(0, 2**50),
    checksum=st.integers(0, 2**32 - 1),
)


def name_of(rank):
    return f"site{rank} (rank {rank})"


@given(headers)
def test_a_header_arrives_as_it_was_sent(header):
    assert len(header.to_bytes()) == HEADER_BYTES and Header.from_bytes(header.to_bytes()) == header


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_what_is_no_header_is_none_or_one_that_says_the_same(data):
    header = Header.from_bytes(data)
    assert header is None or header.to_bytes() == data


@given(identities, st.integers(0, 2**40), st.integers(0, 2**40))
def test_payloads_of_unlike_size_or_identity_never_meet(identity, nbytes, other):
    """gloo ends a process that receives less than is sent; tags are in what it takes for one, 0 is for headers."""
    assert 1 <= identity.tag(nbytes) < 2**31
    assert (identity.tag(nbytes) == identity.tag(other)) == (nbytes == other)
    assert identity.tag(nbytes) != replace(identity, step=identity.step + 1).tag(nbytes)


@given(st.dictionaries(st.integers(0, 5), identities, min_size=1), st.randoms())
def test_all_who_compare_the_same_say_the_same(told, random):
    shuffled = sorted(told.items(), key=lambda _: random.random())
    line = disagreement(told, name_of)
    assert line == disagreement(dict(shuffled), name_of)
    assert (line is None) == (len(set(told.values())) == 1)
    if line is not None:
        assert "\n" not in line and all(name_of(rank) in line for rank in told)


def test_who_does_what_is_said():
    rounds = Identity(kind="round", step=41, number=1)
    line = disagreement({0: rounds, 2: rounds, 1: Identity(kind="flush", step=40)}, name_of)
    assert line.startswith(
        "site0 (rank 0) and site2 (rank 2) average after step 41 (round 2 there) while site1 (rank 1) flushes after "
        "step 40 (to save, evaluate or end): "
    )
    assert "max_steps" in line


def test_unlike_plans_are_said_where_the_words_are_the_same():
    one = Identity(kind="round", step=4, plan=0xAB, plan_number=2, generation=1)
    said = "[plan 000000ab, number 2 of the run, swap 1, generation 1 of the sites]"
    assert said in disagreement({0: one, 1: replace(one, plan=1)}, name_of)
    assert said in disagreement({0: one, 1: replace(one, generation=2)}, name_of)
