# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites and peer groups: which ranks share a fast network, and which meet across the WAN."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from geo_accel.config.names import AUTO, Auto

SITE_VARIABLE = "GEO_ACCEL_SITE"


@dataclass(frozen=True, slots=True)
class Site:
    """Ranks that share a fast network."""

    name: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """All sites, seen from one rank.

    Where all sites have the same size, each unit is cut into `slices` equal slices and the rank with local index j
    carries slice j to the ranks with local index j elsewhere, so every byte crosses the WAN once per site. Where
    sizes differ, the first rank of each site carries everything.
    """

    sites: tuple[Site, ...]
    rank: int
    """Counted through all sites. What lasts, or is for people, says site and place instead."""
    generation: int = 1
    """Of the sites: it grows with every change of who takes part."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sites, in their order."""
        return tuple(site.name for site in self.sites)

    @property
    def world_size(self) -> int:
        return sum(len(site.ranks) for site in self.sites)

    @property
    def site_index(self) -> int:
        return next(i for i, site in enumerate(self.sites) if self.rank in site.ranks)

    @property
    def site(self) -> Site:
        return self.sites[self.site_index]

    @property
    def local_index(self) -> int:
        """Position of this rank inside its site."""
        return self.site.ranks.index(self.rank)

    @property
    def slices(self) -> int:
        """Into how many slices a unit is cut: the common site size, or 1 where sizes differ."""
        sizes = {len(site.ranks) for site in self.sites}
        return sizes.pop() if len(sizes) == 1 else 1

    @property
    def carries(self) -> bool:
        """Whether this rank takes part in WAN rounds."""
        return self.local_index < self.slices

    def peer_group(self, slice_index: int) -> tuple[int, ...]:
        """The ranks, one of every site in site order, that exchange slice `slice_index`."""
        return tuple(site.ranks[slice_index] for site in self.sites)

    def site_of(self, rank: int) -> Site:
        return next(site for site in self.sites if rank in site.ranks)

    def place_of(self, rank: int) -> int:
        """Position of `rank` inside its site, from 0."""
        return self.site_of(rank).ranks.index(rank)

    @property
    def own_name(self) -> str:
        """Of files that are this rank's own, wherever sites share a disk: "paris.0", its site and place."""
        return f"{self.site.name}.{self.local_index}"

    def called(self, rank: int) -> str:
        """As errors call it: "site1 (rank 3)"."""
        return f"{self.site_of(rank).name} (rank {rank})"

    def crosses(self, ranks: Iterable[int]) -> bool:
        """Whether a group of these ranks spans sites."""
        return len({self.site_of(rank) for rank in ranks}) > 1


def machine_label(environ: Mapping[str, str] = os.environ) -> str:
    """This process's machine as its launcher numbers it; host names are not asked, clones of one image share them.

    Reads torchrun's `GROUP_RANK`, else `NODE_RANK`, else counts machines of `LOCAL_WORLD_SIZE` ranks (what
    `accelerate launch` without torchrun leaves), else takes every rank as its own machine.
    """
    for variable in ("GROUP_RANK", "NODE_RANK"):
        if environ.get(variable, "").isdigit():
            return environ[variable]
    rank, per_machine = int(environ.get("RANK", 0)), int(environ.get("LOCAL_WORLD_SIZE", 1))
    return str(rank // max(per_machine, 1))


def build_topology(
    rank: int, labels: Sequence[str], names: Sequence[str | None], sites: Auto | Sequence[int] = AUTO
) -> Topology:
    """Group ranks into sites.

    `labels` and `names` hold, per rank, the machine label and the value of `GEO_ACCEL_SITE` (None if unset).
    `sites` is "auto" or the sizes of consecutive sites. Sites are ordered by their lowest rank.

    Raises ValueError when sizes do not add up to the number of ranks, only some ranks name their site, or a name could
    not be part of a file's.
    """
    world_size = len(labels)
    if odd := next((name for name in names if name and "/" in name), None):
        raise ValueError(f"{SITE_VARIABLE} is {odd!r}: it is to be part of files' names; leave '/' out.")
    unnamed = [r for r, name in enumerate(names) if not name]
    if len(unnamed) < world_size:
        if unnamed:
            raise ValueError(
                f"{SITE_VARIABLE} is set on some ranks but not on rank(s) {_join(unnamed)}: set it on every process "
                "or on none."
            )
        if sites != AUTO:
            raise ValueError(f'sites = {list(sites)} contradicts {SITE_VARIABLE}: keep one (sites: "auto").')
        return _by_key(rank, [name for name in names if name], "{}")
    if sites == AUTO:
        return _by_key(rank, labels, "site{}")
    sizes = list(sites)
    if sum(sizes) != world_size:
        raise ValueError(
            f"sites = {sizes} makes {sum(sizes)} ranks, but {world_size} were launched: the sizes must add up to "
            "the number of processes."
        )
    keys = [str(i) for i, size in enumerate(sizes) for _ in range(size)]
    return _by_key(rank, keys, "site{}")


def _by_key(rank: int, keys: Sequence[str], pattern: str) -> Topology:
    members: dict[str, list[int]] = {}
    for r, key in enumerate(keys):
        members.setdefault(key, []).append(r)
    numbered = pattern == "site{}"
    return Topology(
        sites=tuple(
            Site(name=f"site{i}" if numbered else key, ranks=tuple(ranks))
            for i, (key, ranks) in enumerate(members.items())
        ),
        rank=rank,
    )


def _join(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
