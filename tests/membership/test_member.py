# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json

from geo_accel.membership.generation import NOTHING, Generation
from geo_accel.membership.member import Member, Record, Times
from geo_accel.membership.messages import Accept, Accepted, Join, Message, Prepare, Promise
from geo_accel.membership.succession import NO_VOTES, Succession
from geo_accel.membership.wire import as_json
from geo_accel.sites.messages import SMALL

FIRST = Generation(1, ("a", "b", "c"))


def test_what_is_decided_stays_decided():
    """A second ballot finds what the first may have decided, whatever its own proposer wants."""
    wanted = Generation(2, ("a", "b"), 3)
    proposer = Succession("c", FIRST, NO_VOTES)
    ballot = proposer.begin(0.0)
    proposer.is_promised("b", Promise(1, ballot, ((0, "a"), wanted), 3, True, NOTHING))
    assert proposer.choose({"b": NOTHING, "c": NOTHING}) is None  # one of three is no quorum
    proposer.is_promised("c", Promise(1, ballot, None, 4, True, NOTHING))
    assert proposer.choose({"b": NOTHING, "c": NOTHING}) == wanted


def test_half_decides_with_the_first_member_only():
    generation = Generation(1, ("a", "b"))
    assert [generation.has_quorum(some) for some in ({"a"}, {"b"}, {"a", "b"}, set(), {"x", "b"})] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_a_vote_outlives_its_process():
    """a and b have decided, and a is cut off. What b has voted for is what c has to ask for."""
    decided, site = Generation(2, ("a", "b"), 3), at_b(Record((FIRST,)), holds=True)
    assert isinstance(answer(site, "a", Prepare(1, (1, "a"))), Promise)
    assert answer(site, "a", Accept(1, (1, "a"), decided)) == Accepted(1, (1, "a"))
    again = at_b(site.record, holds=False)
    promise = answer(again, "c", Prepare(1, (2, "c")))
    assert isinstance(promise, Promise)
    assert promise.accepted == ((1, "a"), decided)
    assert not promise.holds
    assert answer(at_b(Record((FIRST,)), holds=False), "c", Prepare(1, (2, "c"))).accepted is None  # had it forgotten


def test_no_lower_ballot_is_heard_of():
    site = at_b(Record((FIRST,)), holds=True)
    answer(site, "c", Prepare(1, (2, "c")))
    again = at_b(site.record, holds=False)
    for message in (Prepare(1, (1, "a")), Accept(1, (1, "a"), Generation(2, ("a", "b")))):
        again.hear("a", message, 0.0)
    assert not again.outbox


def test_a_site_that_was_away_for_long_catches_up_and_a_new_one_hears_of_the_last():
    history = tuple(Generation(number, ("a", "b"), number) for number in range(1, 201))
    site = at_b(Record(history), holds=True)
    away = Member("c", Record(history[:3]), holds=True, times=Times(), now=0.0)
    new = Member("d", Record(), holds=False, known=["b"], times=Times(), now=0.0)
    for _ in range(4):
        decided = answer(site, "c", Join(away.number, NOTHING))
        assert len(json.dumps(as_json(decided))) < SMALL
        away.hear("b", decided, 0.0)
    assert [begun.generation for begun in away.entered] == list(history[3:])
    new.hear("b", answer(site, "d", Join(0, NOTHING)), 0.0)
    assert [begun.generation for begun in new.entered] == [history[-1]]
    assert not new.takes_part


def at_b(record: Record, *, holds: bool) -> Member:
    return Member("b", record, holds=holds, times=Times(), now=0.0)


def answer(site: Member, sender: str, message: Message) -> Message:
    site.hear(sender, message, 0.0)
    ((receiver, said),) = site.outbox
    site.outbox.clear()
    assert receiver == sender
    return said
