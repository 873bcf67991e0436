# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One course of a run of simulated sites under faults, in virtual time, from a seed.

`python -m tests.membership.course --courses 1000000` runs many.

Sites learn, say what they learnt in rounds, and apply what all said. What a site learns at one time is a bit of a
number, so that what is agreed can be compared, and nothing can be counted twice or lost unseen.
"""

import argparse
import heapq
import random
import sys
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

from geo_accel.membership.commits import WINDOW
from geo_accel.membership.generation import NOTHING, Generation
from geo_accel.membership.member import Begun, Member, Record, Times
from geo_accel.membership.messages import Accepted
from geo_accel.membership.succession import NO_VOTES

TIMES = Times(beat_s=1.0, patience_s=2.5, turn_s=0.5)
SITES = (2,) * 4 + (3,) * 9 + (4,) * 4 + (5, 6, 8)
"""How many there are, as often as each is drawn."""
STEP_S = 0.5
AGAIN = 5
"""Every so many steps sites say again what may have been lost."""
FAULTS_UNTIL_S, AGAIN_WITHIN_S = 8.0, 20.0
LATEST_S = 0.3
"""The longest time that a message takes."""


class WrongError(Exception):
    """What must never be."""


@dataclass(slots=True)
class Said:
    """A payload."""

    generation: int
    number: int
    learnt: int


@dataclass(slots=True)
class Whole:
    """Its sender has all payloads up to this round."""

    generation: int
    number: int


@dataclass(slots=True)
class Wanted:
    """Its sender needs what was agreed at the generation's begin."""

    generation: int


@dataclass(slots=True)
class Agreed:
    """What that is."""

    generation: int
    anchor: int


OWNERS = (Said, Whole, Wanted, Agreed)
"""What members' owners say to each other."""


@dataclass(slots=True)
class Site:
    """A process of a site, with what its disk keeps."""

    member: Member
    anchor: int
    unsaid: int = 0
    """Learnt, and in no payload."""
    said: dict[int, int] = field(default_factory=dict)
    """This site's payloads of the generation, by round."""
    heard: dict[tuple[int, str], int] = field(default_factory=dict)
    withheld: dict[tuple[int, int], int] = field(default_factory=dict)
    """Payloads that are in what is agreed without this site having it."""
    applied: int = 0
    """Rounds of the generation."""
    told: tuple[int, int] = (0, 0)
    """The last round, and of which generation, of which it has told the others that it has all."""
    steps: int = 0
    runs: bool = True


class Course:
    """One."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, str, Any]] = []
        self.counter = self.bits = 0
        self.agreed: dict[tuple[int, int], int] = {(1, 0): 0}
        """What is agreed after each round of each generation, as whoever applied it first says."""
        names = [f"s{i}" for i in range(self.chance.choice(SITES))]
        first = Generation(1, tuple(names))
        self.generations = {1: first}
        self.sites = {name: Site(self.new_member(name, Record((first,)), holds=True), 0) for name in names}
        self.cut: set[tuple[str, str]] = set()
        self.loss = self.chance.choice((0.0, 0.0, 0.1, 0.3))
        self.dies_deciding = self.chance.choice((0.0, 0.3))
        """How likely a process is killed after a vote of its own."""
        self.lost = 0
        """What only processes knew that were killed, or nobody else who had it was there to decide."""
        for site in names:
            self.at(self.chance.uniform(0, STEP_S), site, "step")
        for _ in range(self.chance.randint(1, 4)):
            self.at(self.chance.uniform(0.5, FAULTS_UNTIL_S), "", "fault")

    def new_member(self, name: str, record: Record, *, holds: bool) -> Member:
        known = list(getattr(self, "sites", {}))
        return Member(name, record, holds=holds, known=known, times=TIMES, now=self.now)

    def at(self, when: float, who: str, what: Any) -> None:
        self.counter += 1
        heapq.heappush(self.events, (when, self.counter, who, what))

    # ---- running

    def run(self) -> None:
        """To the end; raises WrongError for what must not be."""
        self.until(FAULTS_UNTIL_S)
        self.cut.clear()
        self.loss = 0.0
        if self.can_decide():
            self.require_progress()  # of those who are left
        for name, site in list(self.sites.items()):
            if not site.runs:
                self.restart(name)
        self.require_progress()
        self.check_nothing_lost()

    def can_decide(self) -> bool:
        """Whether those who run are a quorum, and one has what is agreed, and nobody was killed while they decided.

        What is decided then may count on who was killed meanwhile, and wait for them.
        """
        last = self.generations[max(self.generations)]
        running = {name: site.member for name, site in self.sites.items() if site.runs}
        has_holder = any(member.is_ready and member.number == last.number for member in running.values())
        has_voted = any(site.member.record.votes != NO_VOTES for site in self.sites.values())
        return has_holder and last.has_quorum(running) and not has_voted

    def require_progress(self) -> None:
        """Raises WrongError where those who run do not agree on anything new in time."""
        calm = self.now
        before = {name: (site.member.number, site.applied) for name, site in self.sites.items() if site.runs}
        while self.now < calm + AGAIN_WITHIN_S:
            self.until(self.now + 1.0)
            living = {name: (site.member.number, site.applied) for name, site in self.sites.items() if site.runs}
            is_new = all(after > before.get(name, (0, 0)) for name, after in living.items())
            if is_new and self.is_whole():
                return
        states = [(name, site.member.number, site.member.is_ready) for name, site in self.sites.items() if site.runs]
        raise WrongError(f"no progress: {states}")

    def until(self, end: float) -> None:
        while self.events and self.events[0][0] <= end:
            self.now, _, who, what = heapq.heappop(self.events)
            if what == "fault":
                self.fault()
            elif what == "step":
                if self.sites[who].runs:
                    self.step(who)
                self.at(self.now + STEP_S, who, "step")
            elif isinstance(what, tuple) and what[0] == "back":
                self.restart(who)
            elif isinstance(what, tuple) and what[0] == "heal":
                self.cut -= what[1]
            elif self.sites[who].runs:
                self.receive(who, *what)
        self.now = end

    def is_whole(self) -> bool:
        """Whether all living sites are in one generation, and have applied a round of it."""
        living = [site for site in self.sites.values() if site.runs]
        numbers = {site.member.number for site in living}
        return len(numbers) == 1 and all(site.member.is_ready and site.applied > 1 for site in living)

    def fault(self) -> None:
        chance, names = self.chance, [name for name, site in self.sites.items() if site.runs]
        kind = chance.random()
        if kind < 0.45 and names:
            name = chance.choice(names)
            if not self.has_holder(without=name):
                return  # nobody would have anything that was agreed: such a run starts anew from a checkpoint
            self.kill(name)
            if chance.random() < 0.6:  # else not before the end
                self.at(self.now + chance.uniform(0.1, 6), name, ("back",))
        elif kind < 0.9 and len(names) > 1:
            chance.shuffle(names)
            here = names[: chance.randint(1, len(names) - 1)]
            pairs = {(a, b) for a in here for b in names if b not in here}
            pairs |= {(b, a) for a, b in pairs} if chance.random() < 0.8 else set()
            self.cut |= pairs
            self.at(self.now + chance.uniform(0.5, 7), "", ("heal", pairs))
        elif len(self.sites) < 8:  # a new one
            name = f"n{self.counter}"
            self.sites[name] = Site(self.new_member(name, Record(), holds=False), 0)
            self.at(self.now, name, "step")

    def has_holder(self, without: str = "") -> bool:
        """Whether any of the others that run has, or had, what was agreed."""
        others = [site.member for name, site in self.sites.items() if site.runs and name != without]
        return any(member.is_ready or member._version > NOTHING for member in others)

    def kill(self, name: str) -> None:
        site = self.sites[name]
        site.runs = False
        self.lost |= site.unsaid
        for learnt in (*site.said.values(), *site.withheld.values()):
            self.lost |= learnt

    def restart(self, name: str) -> None:
        if not self.sites[name].runs:
            self.sites[name] = Site(self.new_member(name, self.sites[name].member.record, holds=False), 0)

    # ---- a site

    def step(self, name: str) -> None:
        """Time passes at a site: it trains, says what it can, and says again what may have been lost."""
        site = self.sites[name]
        member = site.member
        site.unsaid |= 1 << self.bits
        self.bits += 1
        member.tick(self.now)
        self.look(name)
        if member.may_begin:
            number = member.commits.begin()
            site.said[number], site.unsaid = site.unsaid, 0
            self.tell_members(name, Said(member.number, number, site.said[number]))
        site.steps += 1
        if member.is_ready and not member.commits.is_frozen and site.steps % AGAIN == 0:
            for number, learnt in site.said.items():
                self.tell_members(name, Said(member.number, number, learnt))
            self.tell_members(name, Whole(member.number, member.commits.whole))
        elif not member.is_ready and member.takes_part:
            self.tell_members(name, Wanted(member.number))
        self.look(name)

    def tell_members(self, name: str, what: Any) -> None:
        for other in self.sites[name].member.members:
            if other != name:
                self.send(name, other, what)

    def send(self, name: str, other: str, what: Any) -> None:
        chance = self.chance.random
        if (name, other) not in self.cut and other in self.sites and not (self.loss and chance() < self.loss):
            self.counter += 1
            heapq.heappush(self.events, (self.now + 0.01 + chance() * LATEST_S, self.counter, other, (name, what)))

    def receive(self, name: str, sender: str, what: Any) -> None:
        if (sender, name) in self.cut:
            return
        site = self.sites[name]
        member = site.member
        kind = type(what)
        if kind not in OWNERS:
            member.hear(sender, what, self.now)
        elif what.generation != member.number:
            return
        elif kind is Said:
            if what.number > member.commits.whole:
                site.heard[what.number, sender] = what.learnt
                member.commits.arrived(sender, what.number)
        elif kind is Whole:
            member.commits.is_whole_at(sender, what.number)
        elif kind is Wanted:
            if member.is_ready and site.applied == 0:
                self.send(name, sender, Agreed(member.number, site.anchor))
        elif member.takes_part and not member.is_ready:
            site.anchor, site.withheld = what.anchor, {}
            member.has_fetched(what.generation)
            self.has_agreed(name, member.number)
        self.look(name)

    def look(self, name: str) -> None:
        """Does what has become possible."""
        site = self.sites[name]
        member = site.member
        if member.entered:
            for begun in member.entered:
                self.enter(name, begun)
            member.entered.clear()
        while site.applied < member.commits.committed:
            self.apply(name, member.members, member.number)
        whole = member.number, member.commits.whole
        if whole > site.told and member.is_ready:
            site.told = whole
            self.tell_members(name, Whole(*whole))
        if not member.outbox:
            return
        for other, message in member.outbox:
            self.send(name, other, message)
        has_voted = any(isinstance(message, Accepted) for _, message in member.outbox)
        member.outbox.clear()
        is_fatal = has_voted and self.now < FAULTS_UNTIL_S and self.chance.random() < self.dies_deciding
        if is_fatal and self.has_holder(without=name):
            self.kill(name)
            self.at(self.now + self.chance.uniform(0.01, 1), name, ("back",))

    def enter(self, name: str, begun: Begun) -> None:
        site, generation = self.sites[name], begun.generation
        if self.generations.setdefault(generation.number, generation) != generation:
            raise WrongError(f"two generations of the number {generation.number}")
        before = generation.number - 1
        if begun.is_whole and generation.back_to is None:
            while site.applied < generation.counted:
                self.apply(name, self.generations[before].members, before)
        for number, learnt in site.said.items():
            if number > generation.counted:
                site.unsaid |= learnt
            elif number > site.applied:
                site.withheld[before, number] = learnt
        if generation.back_to is not None:
            forgotten = [anchor for version, anchor in self.agreed.items() if generation.back_to < version]
            self.lost |= reduce(or_, forgotten, 0) & ~self.agreed[generation.back_to]
            for version in list(site.withheld):
                if version > generation.back_to:
                    site.unsaid |= site.withheld.pop(version)
        if site.applied > generation.counted:
            raise WrongError(f"{name} has applied round {site.applied} of {before}; {generation.counted} count")
        site.said, site.heard, site.applied = {}, {}, 0
        if begun.is_whole:
            self.has_agreed(name, generation.number)

    def apply(self, name: str, members: tuple[str, ...], generation: int) -> None:
        site = self.sites[name]
        site.applied += 1
        parts = [site.heard.pop((site.applied, one)) if one != name else site.said[site.applied] for one in members]
        for part in parts:
            if part & site.anchor:
                raise WrongError("something was counted twice")
            site.anchor |= part
        site.said = {number: learnt for number, learnt in site.said.items() if number > site.applied - WINDOW}
        self.has_agreed(name, generation)

    def has_agreed(self, name: str, generation: int) -> None:
        site = self.sites[name]
        if self.agreed.setdefault((generation, site.applied), site.anchor) != site.anchor:
            raise WrongError(f"sites differ after round {site.applied} of generation {generation}")

    def check_nothing_lost(self) -> None:
        found = self.lost
        for site in self.sites.values():
            if site.runs:
                found |= site.anchor | site.unsaid
                for learnt in (*site.said.values(), *site.withheld.values()):
                    found |= learnt
        if found != (1 << self.bits) - 1:
            raise WrongError("something that a living site learnt is nowhere")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--courses", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    for seed in range(options.first, options.first + options.courses):
        try:
            Course(seed).run()
        except (WrongError, AssertionError, KeyError) as error:
            print(f"seed {seed}: {type(error).__name__} {error}", file=sys.stderr)
            return 1
    print(f"{options.courses} courses: none went wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
