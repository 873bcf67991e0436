# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Many courses under faults; and that rules which are broken on purpose are found."""

from collections.abc import Callable, Mapping

import pytest

from geo_accel.membership import member
from geo_accel.membership.commits import Commits
from geo_accel.membership.generation import Generation, Version
from geo_accel.membership.messages import Ballot
from geo_accel.membership.succession import Succession
from tests.membership.course import Agreed, Course, Wanted, WrongError

PARTS, COURSES = 20, 2500
"""Of the seeds; `python -m tests.membership.course --courses 1000000` takes more."""
TRIED = 500
"""Courses in which each broken rule has to be found."""


@pytest.mark.parametrize("part", range(PARTS))
def test_sites_agree_and_lose_nothing_whatever_fails(part):
    courses = [Course(seed) for seed in range(part * COURSES, (part + 1) * COURSES)]
    for course in courses:
        course.run()
    assert sum(len(course.generations) > 1 for course in courses) > 0.9 * COURSES
    assert sum(any(one.back_to for one in course.generations.values()) for course in courses) > 0.005 * COURSES


def applies_before_all_have_heard(monkeypatch: pytest.MonkeyPatch) -> type[Course]:
    def look(self: Commits) -> None:
        before = self.whole
        _LOOK(self)
        if not self.is_frozen and self.whole > before:
            self.committed = self.whole

    monkeypatch.setattr(Commits, "_look", look)
    return Course


_LOOK = Commits._look


def counts_no_round_that_was_on_its_way(monkeypatch: pytest.MonkeyPatch) -> type[Course]:
    class Hasty(Succession):
        def choose(self, wanted: Mapping[str, Version]) -> Generation | None:
            chosen = super().choose(wanted)
            if chosen is None or any(one.accepted for one in self.proposal.promises.values()):
                return chosen
            self.proposal.successor = Generation(chosen.number, chosen.members, max(0, chosen.counted - 1))
            return self.proposal.successor

    monkeypatch.setattr(member, "Succession", Hasty)
    return Course


def goes_on_while_it_is_decided(monkeypatch: pytest.MonkeyPatch) -> type[Course]:
    monkeypatch.setattr(Commits, "freeze", lambda self: None)
    return Course


def votes_for_everybody(monkeypatch: pytest.MonkeyPatch) -> type[Course]:
    """So that there are two arbiters."""

    def accept(self: Succession, ballot: Ballot, successor: Generation) -> bool:
        self.highest = max(self.highest, ballot)
        return True

    monkeypatch.setattr(Succession, "accept", accept)
    return Course


def needs_no_quorum(monkeypatch: pytest.MonkeyPatch) -> type[Course]:
    monkeypatch.setattr(Generation, "has_quorum", lambda self, present: bool(present))
    return Course


def heals_from_an_unhealed_site(monkeypatch: pytest.MonkeyPatch) -> type[Course]:
    class Generous(Course):
        def receive(self, name: str, sender: str, what: object) -> None:
            site = self.sites[name]
            if isinstance(what, Wanted) and what.generation == site.member.number and site.applied == 0:
                self.send(name, sender, Agreed(what.generation, site.anchor))
            else:
                super().receive(name, sender, what)

    return Generous


def never_says_again_what_did_not_count(monkeypatch: pytest.MonkeyPatch) -> type[Course]:
    class Careless(Course):
        def enter(self, name: str, begun: member.Begun) -> None:
            site, counted = self.sites[name], begun.generation.counted
            site.said = {number: learnt for number, learnt in site.said.items() if number <= counted}
            super().enter(name, begun)

    return Careless


@pytest.mark.parametrize(
    "broken",
    [
        applies_before_all_have_heard,
        counts_no_round_that_was_on_its_way,
        goes_on_while_it_is_decided,
        votes_for_everybody,
        needs_no_quorum,
        heals_from_an_unhealed_site,
        never_says_again_what_did_not_count,
    ],
)
def test_a_broken_rule_is_found(broken: Callable[[pytest.MonkeyPatch], type[Course]], monkeypatch):
    course = broken(monkeypatch)
    assert any(goes_wrong(course(seed)) for seed in range(TRIED))


def goes_wrong(course: Course) -> bool:
    try:
        course.run()
    except (WrongError, AssertionError, KeyError):  # a rule that is broken may also leave nothing to apply
        return True
    return False
