# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Who takes part from one change to the next."""

from collections.abc import Collection
from dataclasses import dataclass

Version = tuple[int, int]
"""Of what is agreed: a generation, and how many of its rounds are in it; of (0, 0) nobody knows anything."""
NOTHING: Version = (0, 0)


@dataclass(frozen=True, slots=True)
class Generation:
    """Sites that average with each other."""

    number: int
    """From 1. There is one generation of each number."""
    members: tuple[str, ...]
    """Names; the first one counts for more where half decide."""
    counted: int = 0
    """How many rounds of the generation before count. No member of that one has applied more."""
    back_to: Version | None = None
    """What its members begin with, where none of the generation before had what was agreed any more."""

    def has_quorum(self, present: Collection[str]) -> bool:
        """Whether `present` may decide what follows: more than half of the members, or half with the first one.

        Two quorums always have a member in common, so that they cannot decide differently.
        """
        there = [name for name in self.members if name in present]
        return 2 * len(there) > len(self.members) or (
            2 * len(there) == len(self.members) and there[0] == self.members[0]
        )
