# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What sites say to each other of who takes part. All are small, and may be lost, late, or come twice."""

from dataclasses import dataclass

from geo_accel.membership.generation import Generation, Version

Ballot = tuple[int, str]
"""An attempt to decide, and whose it is; the higher one counts."""


@dataclass(frozen=True, slots=True)
class Message:
    """All say of which generation they speak: the last that the sender knows."""

    generation: int


@dataclass(frozen=True, slots=True)
class Alive(Message):
    """Somebody is there."""

    holds: bool
    """Whether it has what is agreed."""


@dataclass(frozen=True, slots=True)
class Join(Message):
    """Somebody is there who takes no part, and wants to: a new site, one that was away, or one started anew."""

    version: Version
    """The last one of what is agreed that it has."""


@dataclass(frozen=True, slots=True)
class Prepare(Message):
    """What follows this generation is to be decided in `ballot`: stop, and say where you are."""

    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Promise(Message):
    """The sender has stopped, and hears of no lower ballot any more."""

    ballot: Ballot
    accepted: tuple[Ballot, Generation] | None
    """What it has accepted already, and in which ballot."""
    whole: int
    """The last round of which it has all payloads."""
    holds: bool
    """Whether it has what is agreed after each round up to there."""
    version: Version
    """The last one that it has, where it does not."""


@dataclass(frozen=True, slots=True)
class Accept(Message):
    """This is to follow."""

    ballot: Ballot
    successor: Generation


@dataclass(frozen=True, slots=True)
class Accepted(Message):
    """The sender agrees."""

    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Decided(Message):
    """What was decided, one after the other, since the generation that the receiver knew."""

    later: tuple[Generation, ...]
