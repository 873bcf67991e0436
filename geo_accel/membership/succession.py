# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Deciding what follows a generation: one value, whoever proposes, whatever gets lost (Lamport, Paxos Made Simple)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from geo_accel.membership.generation import NOTHING, Generation, Version
from geo_accel.membership.messages import Ballot, Promise


@dataclass(frozen=True, slots=True)
class Votes:
    """What a member has bound itself to. It has to outlive the member's process."""

    promised: Ballot = (0, "")
    """It hears of no lower one any more."""
    accepted: tuple[Ballot, Generation] | None = None


NO_VOTES = Votes()


@dataclass(slots=True)
class Proposal:
    """A ballot of this member's own."""

    ballot: Ballot
    since: float
    promises: dict[str, Promise] = field(default_factory=dict)
    successor: Generation | None = None
    """What it asks the others to accept, once it does."""
    accepted: set[str] = field(default_factory=set)


class Succession:
    """One member's part in it."""

    def __init__(self, me: str, generation: Generation, votes: Votes) -> None:
        self._me, self._generation = me, generation
        self.votes = votes
        self.highest = votes.promised
        """The highest ballot heard of."""
        self.proposal: Proposal | None = None

    # ---- as one who votes

    def promise(self, ballot: Ballot) -> bool:
        """Whether `ballot` is the highest so far; from here on lower ones are none."""
        self.highest = max(self.highest, ballot)
        if ballot < self.votes.promised:
            return False
        self.votes = Votes(ballot, self.votes.accepted)
        return True

    def accept(self, ballot: Ballot, successor: Generation) -> bool:
        """Whether `successor` is accepted, as no higher ballot was promised anything."""
        self.highest = max(self.highest, ballot)
        if ballot < self.votes.promised:
            return False
        self.votes = Votes(ballot, (ballot, successor))
        return True

    # ---- as one who proposes

    def begin(self, now: float) -> Ballot:
        """A new ballot, higher than all that were heard of."""
        self.highest = (self.highest[0] + 1, self._me)
        self.proposal = Proposal(self.highest, now)
        return self.highest

    def is_promised(self, sender: str, promise: Promise) -> None:
        """`sender` takes part in this member's ballot."""
        if self.proposal is not None and promise.ballot == self.proposal.ballot:
            self.proposal.promises[sender] = promise

    def choose(self, wanted: Mapping[str, Version]) -> Generation | None:
        """What to ask for, once enough have promised: a generation of those `wanted`, or what a higher rule says.

        With each of them goes the last version that it has, as far as it has said. None while too few have promised,
        or none of the wanted has what is agreed.
        """
        proposal = self.proposal
        if proposal is None or proposal.successor is not None:
            return None
        promises = proposal.promises
        if not self._generation.has_quorum(promises):
            return None
        # What some may already have decided must be what all decide.
        accepted = [one.accepted for one in promises.values() if one.accepted is not None]
        if accepted:
            proposal.successor = max(accepted)[1]
            return proposal.successor
        number = self._generation.number + 1
        holders = {name: one.whole for name, one in promises.items() if one.holds}
        members = _by_seniority(wanted, holders, promises)
        if not holders.keys().isdisjoint(wanted):
            # A round that anybody has applied, here or beyond a cut, is whole at everybody: it is among these.
            proposal.successor = Generation(number, members, min(holders.values()))
        elif not holders and promises.keys() >= {*self._generation.members}:
            # Nor is there one beyond a cut. Who had it was killed; nobody else has applied what is now forgotten.
            latest = max(promises[one].version if one in promises else wanted[one] for one in members)
            if latest > NOTHING:
                proposal.successor = Generation(number, members, 0, latest)
        return proposal.successor

    def is_accepted(self, sender: str, ballot: Ballot) -> Generation | None:
        """`sender` has accepted; what is decided, if it is now."""
        proposal = self.proposal
        if proposal is None or proposal.ballot != ballot or proposal.successor is None:
            return None
        proposal.accepted.add(sender)
        return proposal.successor if self._generation.has_quorum(proposal.accepted) else None


def _by_seniority(
    wanted: Mapping[str, Version], holders: Collection[str], promised: Collection[str]
) -> tuple[str, ...]:
    """Who has what is agreed, who else has just answered, then those who are new, the latest version first.

    At first no more of the new ones than leave the others a majority: nobody knows whether they will be there when
    the next decision is due.
    """

    def rank(name: str) -> tuple:
        generation, rounds = wanted[name]
        return name not in holders, name not in promised, -generation, -rounds, name

    count = sum(name in promised for name in wanted)
    return tuple(sorted(wanted, key=rank)[: count + max(1, count - 1)])
