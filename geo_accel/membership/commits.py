# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which rounds of a generation count: those that everybody has heard whole, as everybody knows.

A site that has all payloads of a round says so to all, and applies it once all have said so. Whoever applied a round
thus knows that everybody can. When a site is lost, what the others have whole counts for all of them, and what one of
them lacks for none: a round that does not count has changed nothing, and what it said is said again.
"""

from collections.abc import Sequence

WINDOW = 2
"""Rounds that may have begun and do not count yet."""


class Commits:
    """One member's view. Rounds are counted from 1, and begin in this order."""

    def __init__(self, me: str, members: Sequence[str]) -> None:
        self._others = [name for name in members if name != me]
        self._arrived: dict[int, set[str]] = {}
        """By round, whose payload is here."""
        self._wholes = dict.fromkeys(self._others, 0)
        """Up to which round each has all, as it says."""
        self.begun = 0
        self.whole = 0
        """Up to which round this member has all payloads, its own included."""
        self.committed = 0
        """Up to which round all have."""
        self.is_frozen = False
        """Whether nothing counts any more but what a decision says."""

    @property
    def may_begin(self) -> bool:
        """Whether another round may."""
        return not self.is_frozen and self.begun < self.committed + WINDOW

    def begin(self) -> int:
        """This member's payload of the next round is there; returns its number."""
        assert self.may_begin, "a round began out of turn"
        self.begun += 1
        self._look()
        return self.begun

    def arrived(self, sender: str, number: int) -> None:
        """The payload of `sender` is here, whole."""
        if sender in self._wholes and number > self.whole:
            self._arrived.setdefault(number, set()).add(sender)
            self._look()

    def is_whole_at(self, sender: str, number: int) -> None:
        """`sender` says that it has all up to `number`."""
        if sender in self._wholes:
            self._wholes[sender] = max(self._wholes[sender], number)
            self._look()

    def freeze(self) -> None:
        """From here on a decision is on its way that goes by what this member has now."""
        self.is_frozen = True

    def _look(self) -> None:
        if self.is_frozen:
            return
        count = len(self._others)
        while self.whole < self.begun and len(self._arrived.get(self.whole + 1, ())) == count:
            self.whole += 1
            self._arrived.pop(self.whole, None)
        self.committed = min([self.whole, *self._wholes.values()])
