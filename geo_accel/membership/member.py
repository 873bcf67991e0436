# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site's part in who takes part: it hears messages, looks at the time that it is told, and says messages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from geo_accel.membership.commits import Commits
from geo_accel.membership.generation import NOTHING, Generation, Version
from geo_accel.membership.messages import Accept, Accepted, Alive, Decided, Join, Message, Prepare, Promise
from geo_accel.membership.succession import NO_VOTES, Succession, Votes

_AT_ONCE = 64
"""Generations that a site which was away is told of with one message, so that all messages are small."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a site has to know again after its process was killed: written before anything that follows is said."""

    history: tuple[Generation, ...] = ()
    """All generations that it knows, from the first it knows of; empty for a new site."""
    votes: Votes = NO_VOTES
    """On what follows the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """In seconds."""

    beat_s: float = 1.0
    """How often a site says that it is there."""
    patience_s: float = 5.0
    """After so long without a word a site counts as lost."""
    turn_s: float = 0.5
    """How long who comes first in the order has for a decision before the next one tries."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A generation that has begun at this site."""

    generation: Generation
    is_whole: bool
    """Whether the site has all rounds that count of the one before, and so what is agreed as this one begins."""


class Member:
    """A site, under a name that no other process ever had unless it knows that one's record.

    Its owner persists `record` before it sends what is in `outbox`, and empties that. A site that does not belong to
    the last generation that it knows, or has lost what was agreed in it, asks to join. One that belongs, and misses
    what is agreed as the generation begins, has to fetch it from a member that has it.
    """

    def __init__(
        self, me: str, record: Record, *, holds: bool, known: Sequence[str] = (), times: Times, now: float
    ) -> None:
        """`holds`: whether this site has what is agreed; not where its process was started anew. `known`: whom to
        ask beside those of the record."""
        self.me, self.record = me, record
        self._times = times
        self._known = {*known, *(name for one in record.history for name in one.members)} - {me}
        self.outbox: list[tuple[str, Message]] = []
        """Messages, and to whom."""
        self.entered: list[Begun] = []
        """What the owner has not dealt with yet."""
        self._heard: dict[str, float] = {}
        self._joining: dict[str, tuple[float, Version]] = {}
        """When each last asked, and what it has."""
        self._version = (self.number, 0) if holds else NOTHING
        """The last one of what is agreed that is here, where rounds go on without it."""
        self._beats_at = now
        self._wants_since: float | None = None
        self.is_ready = False
        """Whether it has what is agreed at the generation's begin, and so takes part in its rounds."""
        self._lost = True
        """Whether it cannot get that any more: rounds may have been agreed on since."""
        self.commits = Commits(me, ())
        self._begin(holds, now)
        self._lost = not holds

    # ---- where it stands

    @property
    def number(self) -> int:
        """Of the last generation that it knows; 0 where it knows none."""
        return self.record.history[-1].number if self.record.history else 0

    @property
    def members(self) -> tuple[str, ...]:
        """Of that generation."""
        return self.record.history[-1].members if self.record.history else ()

    @property
    def takes_part(self) -> bool:
        """Whether it belongs to that generation, and can."""
        return self.me in self.members and not self._lost

    @property
    def may_begin(self) -> bool:
        """Whether it may begin another round."""
        return self.is_ready and self.commits.may_begin

    def has_fetched(self, number: int) -> None:
        """What was agreed at the begin of generation `number` is here."""
        if number == self.number and self.takes_part:
            self.is_ready = self._somebody_holds = True
            self._version = (number, 0)

    # ---- events

    def tick(self, now: float) -> None:
        """Time has passed."""
        if now >= self._beats_at:
            self._beats_at = now + self._times.beat_s
            word = Alive(self.number, self.is_ready) if self.takes_part else Join(self.number, self._version)
            for name in sorted(self._known):
                self._say(name, word)
        self._look_after_succession(now)

    def is_gone(self, name: str) -> None:
        """The transport knows that `name` is not there."""
        self._heard.pop(name, None)
        self._joining.pop(name, None)

    def hear(self, sender: str, message: Message, now: float) -> None:
        """A message has come."""
        if sender != self.me:
            self._known.add(sender)
            self._heard[sender] = now
        if isinstance(message, Decided):
            self._learn(message, now)
        elif isinstance(message, Join):
            self._joining[sender] = (now, message.version)
            self._inform(sender, message.generation)
        elif message.generation != self.number:
            if message.generation < self.number:
                self._inform(sender, message.generation)
            else:
                self._say(sender, Alive(self.number, self.is_ready))  # it answers with what has been decided
        elif isinstance(message, Alive):
            self._somebody_holds |= message.holds
        elif self.me in self.members:
            _HANDLERS[type(message)](self, sender, message, now)

    # ---- votes

    def _prepare(self, sender: str, message: Prepare, now: float) -> None:
        if self._succession.promise(message.ballot):
            self.commits.freeze()
            self._keep_votes()
            accepted = self._succession.votes.accepted
            where = self.commits.whole, self.is_ready, self._version
            self._say(sender, Promise(self.number, message.ballot, accepted, *where), now)

    def _promise(self, sender: str, message: Promise, now: float) -> None:
        self._succession.is_promised(sender, message)
        self._ask_to_accept(now)

    def _accept(self, sender: str, message: Accept, now: float) -> None:
        follows = message.successor.number == self.number + 1
        if follows and self._succession.accept(message.ballot, message.successor):
            self.commits.freeze()
            self._keep_votes()
            self._say(sender, Accepted(self.number, message.ballot), now)

    def _accepted(self, sender: str, message: Accepted, now: float) -> None:
        decided = self._succession.is_accepted(sender, message.ballot)
        if decided is not None:
            self._learn(Decided(self.number, (decided,)), now)
            for name in sorted(self._known):
                self._inform(name, decided.number - 1)

    def _ask_to_accept(self, now: float) -> None:
        """As soon as all who are there have promised: who has not may have been killed, and is not to have a vote."""
        proposal = self._succession.proposal
        if proposal is None or not set(self._living(now)) <= proposal.promises.keys():
            return
        successor = self._succession.choose(dict.fromkeys(self._living(now), NOTHING) | self._newcomers(now))
        if successor is not None:
            self._say_to_members(Accept(self.number, proposal.ballot, successor), now)

    def _look_after_succession(self, now: float) -> None:
        if self.me not in self.members:
            return
        living = self._living(now)
        # Who had it may have been killed after the decision that counted on it.
        is_orphaned = not self._somebody_holds and not self._is_recent(self._began_at, now)
        is_whole = len(living) == len(self.members) and not self._newcomers(now)
        if is_whole and not (self.commits.is_frozen or self._lost or is_orphaned):
            self._wants_since = None
            return
        before = self.number
        self._ask_to_accept(now)
        if self.number > before:
            return
        if self._wants_since is None:
            self._wants_since = now
        # Who comes first in the order tries first, so that ballots seldom meet; where they do, whoever is later in it
        # waits for longer, and one of them comes through.
        turn = living.index(self.me) + 1
        proposal = self._succession.proposal
        since = self._wants_since if proposal is None else proposal.since + self._times.turn_s
        wait_s = self._times.turn_s * (turn - 1 if proposal is None else 2 * turn)
        if now >= since + wait_s and self.record.history[-1].has_quorum(living):
            self._say_to_members(Prepare(self.number, self._succession.begin(now)), now)

    def _living(self, now: float) -> list[str]:
        """Members who were heard of lately, this one included, by seniority."""
        return [name for name in self.members if name == self.me or self._is_recent(self._heard.get(name), now)]

    def _newcomers(self, now: float) -> dict[str, Version]:
        """Who asked lately to be in, and what each has; a member among them has lost what it had."""
        return {name: version for name, (at, version) in self._joining.items() if self._is_recent(at, now)}

    def _is_recent(self, at: float | None, now: float) -> bool:
        return at is not None and now - at <= self._times.patience_s

    # ---- generations

    def _learn(self, message: Decided, now: float) -> None:
        for one in message.later:
            if one.number == self.number + 1 or not self.record.history:
                self._enter(one, now)

    def _enter(self, generation: Generation, now: float) -> None:
        if generation.back_to is not None:
            is_whole = self._version == generation.back_to
        else:
            is_whole = self.is_ready and self.commits.whole >= generation.counted
            if self.is_ready:
                self._version = (self.number, self.commits.committed)
        if is_whole:
            self._version = (generation.number, 0)
        self.record = Record((*self.record.history, generation))
        self._known |= {*generation.members} - {self.me}
        self.entered.append(Begun(generation, is_whole))
        self._joining.clear()
        self._begin(is_whole, now)

    def _begin(self, holds: bool, now: float) -> None:
        """The last generation of the record is the one that runs."""
        self._lost = False
        self.is_ready = holds and self.me in self.members
        self.commits = Commits(self.me, self.members)
        self._began_at, self._somebody_holds = now, self.is_ready
        self._wants_since = None
        self._heard |= {name: now for name in self.members if name != self.me}
        if self.record.history:
            self._succession = Succession(self.me, self.record.history[-1], self.record.votes)

    # ---- words

    def _inform(self, name: str, known: int) -> None:
        """Tells `name`, who knows of generation `known`, what came later."""
        if known < self.number and name != self.me:
            later = [one for one in self.record.history if one.number > known]
            # Who has said nothing yet need not know what of it counted.
            self._say(name, Decided(self.number, tuple(later[:_AT_ONCE] if known else later[-1:])))

    def _keep_votes(self) -> None:
        self.record = Record(self.record.history, self._succession.votes)

    def _say_to_members(self, message: Message, now: float) -> None:
        for name in self.members:  # as they are now: this one's own vote may decide
            self._say(name, message, now)

    def _say(self, name: str, message: Message, now: float = 0.0) -> None:
        if name == self.me:
            self.hear(name, message, now)
        else:
            self.outbox.append((name, message))


_HANDLERS: dict[type[Message], Callable[..., None]] = {
    Prepare: Member._prepare,
    Promise: Member._promise,
    Accept: Member._accept,
    Accepted: Member._accepted,
}
