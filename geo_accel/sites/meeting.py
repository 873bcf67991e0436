# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Who is in a run: sites come to a meeting point, until as many are there as are expected. Pure: no sockets, no clock.

Ranks of a run are counted site by site, in the order of the sites' names: nothing depends on who came first.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from geo_accel.version import __version__

MOST_RANKS = 4096
AT_MEETING = "meeting"
"""The address of who listens at the meeting point's own port, which everybody knows by the way that led there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What one process of a site says of itself when it comes."""

    site: str
    job: str
    """Drawn by the site's first process, for all of them."""
    place: int
    """Its rank inside the site."""
    size: int
    """How many processes the site has."""
    machine: str
    """As the site's launcher calls it."""
    address: str | None = None
    """host:port where it can be dialled, without a host the one that it comes from, or `AT_MEETING`; None where it
    cannot."""
    expect: int | None = None
    """How many sites the run has, as far as it was told."""
    version: str = __version__

    @classmethod
    def from_json(cls, content: Any) -> "Arrival":
        """Raises ValueError for what is none, or cannot be meant."""
        kinds: dict[str, tuple[type, ...]] = {
            "site": (str,),
            "job": (str,),
            "place": (int,),
            "size": (int,),
            "machine": (str,),
            "address": (str, type(None)),
            "expect": (int, type(None)),
            "version": (str,),
        }
        if not isinstance(content, dict) or content.keys() != kinds.keys():
            raise ValueError("who comes says something that this version of geo_accel does not know")
        for name, allowed in kinds.items():
            if type(content[name]) not in allowed:
                raise ValueError(f"who comes gives a {name} that is no {allowed[0].__name__}")
        arrival = cls(**content)
        if not 0 <= arrival.place < arrival.size <= MOST_RANKS or len(arrival.site) > 63 or len(arrival.job) > 64:
            raise ValueError(f"{arrival.site[:63]} gives process {arrival.place} of {arrival.size}")
        return arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One site of a run."""

    name: str
    machines: tuple[str, ...]
    """By process."""
    addresses: tuple[str | None, ...]
    """By process, host:port; None for one that cannot be dialled."""
    fingerprints: tuple[str, ...]
    """SHA-256 of its processes' certificates."""

    @property
    def size(self) -> int:
        return len(self.machines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """All members of one generation."""

    run: str
    """Drawn by the meeting point."""
    generation: int
    members: tuple[Member, ...]
    """By name."""
    secret: str
    """Hex, known to the members alone: from it both ends of a pair know which relay is theirs."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> "Roster":
        """Raises ValueError for what is none."""
        try:
            members = tuple(
                Member(
                    name=str(one["name"]),
                    machines=tuple(map(str, one["machines"])),
                    addresses=tuple(None if address is None else str(address) for address in one["addresses"]),
                    fingerprints=tuple(map(str, one["fingerprints"])),
                )
                for one in content["members"]
            )
            return cls(
                run=str(content["run"]),
                generation=int(content["generation"]),
                members=members,
                secret=str(content["secret"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the meeting point said what is no list of sites ({error})") from error


class Meeting:
    """The meeting point's view: who has come, and whether all are there."""

    def __init__(self, expect: int | None, run: str, secret: str) -> None:
        """`expect`: how many sites; None where whoever comes says so."""
        self._expect, self._told_by = expect, "the meeting point"
        self._run, self._secret = run, secret
        self._arrived: dict[str, dict[int, tuple[Arrival, str]]] = {}
        self.roster: Roster | None = None
        """None until all are there."""

    def arrive(self, arrival: Arrival, shown: str, fingerprint: str) -> str | None:
        """A process comes, with a certificate of site `shown`. Why it cannot be in, in one line; None where it is."""
        site = arrival.site
        if arrival.version != __version__:
            return (
                f"{site} has geo_accel {arrival.version}, the meeting point {__version__}: install the same version."
            )
        if site != shown:
            return (
                f"a process calls itself site {site}, but its key file is {shown}'s: give each site its own key file "
                "(GEO_ACCEL_KEYS), and the site's name in GEO_ACCEL_SITE."
            )
        if self.roster is not None:
            names = ", ".join(member.name for member in self.roster.members)
            return f"this run has begun, with the sites {names}; {site} is too late. Is GEO_ACCEL_EXPECT right?"
        here = self._arrived.get(site, {})
        for other, _ in here.values():
            if other.job != arrival.job:
                return f"there are two sites called {site}: give each a name and a key file of its own."
            if other.size != arrival.size:
                return f"{site} has {other.size} processes by one, {arrival.size} by another"
        if arrival.expect is not None:
            if self._expect not in (None, arrival.expect):
                return (
                    f"{site} expects {arrival.expect} sites, {self._told_by} {self._expect}: say the same everywhere "
                    "(GEO_ACCEL_EXPECT or meet.expect), or at one site only."
                )
            if self._expect is None:
                self._expect, self._told_by = arrival.expect, site
        self._arrived.setdefault(site, {})[arrival.place] = (arrival, fingerprint)
        self._complete()
        return None

    def leave(self, arrival: Arrival) -> None:
        """Its connection ended. Before all are there it is as if it had not come."""
        here = self._arrived.get(arrival.site, {})
        if self.roster is None and arrival.place in here and here[arrival.place][0] == arrival:
            del here[arrival.place]
            if not here:
                del self._arrived[arrival.site]

    @property
    def expect(self) -> int:
        """How many sites the run has: two, unless somebody says otherwise."""
        return 2 if self._expect is None else self._expect

    @property
    def missing(self) -> str:
        """Who is not there yet, in words."""
        parts = [
            f"{len(here)} of {self._size_of(site)} processes of {site}"
            for site, here in sorted(self._arrived.items())
            if len(here) < self._size_of(site)
        ]
        if len(self._arrived) < self.expect:
            there = ", ".join(sorted(self._arrived)) or "none"
            parts.append(f"{self.expect - len(self._arrived)} more of {self.expect} sites (there: {there})")
        return "; ".join(parts)

    def _size_of(self, site: str) -> int:
        return next(iter(self._arrived[site].values()))[0].size

    def _complete(self) -> None:
        if self.missing:
            return
        members = []
        for site, here in sorted(self._arrived.items()):
            ranks = [here[place] for place in sorted(here)]
            members.append(
                Member(
                    name=site,
                    machines=tuple(arrival.machine for arrival, _ in ranks),
                    addresses=tuple(arrival.address for arrival, _ in ranks),
                    fingerprints=tuple(dict.fromkeys(fingerprint for _, fingerprint in ranks)),
                )
            )
        self.roster = Roster(run=self._run, generation=1, members=tuple(members), secret=self._secret)


class Shelf:
    """Texts by key, which members lay down for each other."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def set(self, key: str, text: str) -> None:
        self._texts[key] = text

    def get(self, keys: Sequence[str]) -> list[str] | None:
        """None unless all are there."""
        return [self._texts[key] for key in keys] if all(key in self._texts for key in keys) else None

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._texts.pop(key, None)
