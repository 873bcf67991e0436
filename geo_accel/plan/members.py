# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Who a plan is for: the sites that its rounds are between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from geo_accel.topology import Topology

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Members:
    """Sites in their order, by name; before anybody knows their names, only how many they are.

    Whatever has one value per site has them in this order.
    """

    count: int
    names: tuple[str, ...] = ()
    """Empty where they are not known."""
    ranks: tuple[int, ...] = ()
    """How many each has; empty: all alike, as far as anybody knows."""
    generation: int = 1
    """It grows with every change of who takes part."""

    @classmethod
    def of(cls, topology: Topology) -> "Members":
        """The sites of a run."""
        sizes = tuple(len(site.ranks) for site in topology.sites)
        return cls(count=len(sizes), names=topology.names, ranks=sizes, generation=topology.generation)

    def __len__(self) -> int:
        return self.count

    def in_order(self, known: Sequence[tuple[str, T]]) -> list[T]:
        """Of what is known by site, what is theirs; as it comes, where that is of others or names are not known."""
        by_name = dict(known)
        if self.names and all(name in by_name for name in self.names):
            return [by_name[name] for name in self.names]
        return [value for _, value in known]

    def __str__(self) -> str:
        """For people: "a, b", or "2 sites"."""
        return ", ".join(self.names) or f"{self.count} sites"
