# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Who is in a run: sites come to a meeting point, until as many are there as are expected. Pure: no sockets, no clock.

Ranks of a run are counted site by site, in the order of the sites' names: nothing depends on who came first.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from geo_accel.sites.credentials import SITE_NAME
from geo_accel.version import __version__

MOST_RANKS = 4096
AT_MEETING = "meeting"
"""The address of who listens at the meeting point's own port, which everybody knows by the way that led there."""
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{0,253}):[1-9][0-9]{0,4}")
_MOST_TEXT = 255
_USUAL_SITES = 2


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
            if isinstance(content[name], str) and not (
                len(content[name]) <= _MOST_TEXT and content[name].isprintable()
            ):
                raise ValueError(f"who comes gives a {name} that is no name")
        arrival = cls(**content)
        if not SITE_NAME.fullmatch(arrival.site):
            raise ValueError(f"who comes calls itself {arrival.site!r}, as no site can be called")
        if not 0 <= arrival.place < arrival.size <= MOST_RANKS:
            raise ValueError(f"{arrival.site} gives process {arrival.place} of {arrival.size}")
        if arrival.expect is not None and arrival.expect < 1:
            raise ValueError(f"{arrival.site} expects {arrival.expect} sites")
        if arrival.address not in (None, AT_MEETING) and not _ADDRESS.fullmatch(arrival.address or ""):
            raise ValueError(f"{arrival.site} says that it can be dialled at {arrival.address!r}")
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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the meeting point said what is no list of sites ({error})") from error


class Meeting:
    """The meeting point's view: who has come, and whether all are there."""

    def __init__(self, expect: int | None, run: str, secret: str) -> None:
        """`expect`: how many sites; None where whoever comes says so."""
        self._expect, self._run, self._secret = expect, run, secret
        self._arrived: dict[str, dict[int, tuple[Arrival, str]]] = {}
        self._left: set[tuple[str, int]] = set()
        """Processes that have left since all were there."""
        self.roster: Roster | None = None
        """None until all are there."""

    def arrive(self, arrival: Arrival, shown: str, fingerprint: str) -> str | None:
        """A process comes, with a certificate of site `shown`. Why it cannot be in, in one line; None where it is.

        One that is in may come again, when its connection was lost.
        """
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
            return self._come_again(arrival, fingerprint)
        problem = self._problem_with(arrival)
        if problem is None:
            self._arrived.setdefault(site, {})[arrival.place] = (arrival, fingerprint)
            self._complete()
        return problem

    def _come_again(self, arrival: Arrival, fingerprint: str) -> str | None:
        site, place = arrival.site, arrival.place
        before = self._arrived.get(site, {}).get(place)
        if before is not None and before[0].job == arrival.job and before[1] == fingerprint:
            self._arrived[site][place] = (arrival, fingerprint)
            self._left.discard((site, place))
            return None
        if site in self._arrived:
            return (
                f"this run has begun, with the sites {self._names}; another {site} is too late. Is it a second "
                "site by that name, or the same one, started anew? A run goes on with the jobs that it began with."
            )
        return f"this run has begun, with the sites {self._names}; {site} is too late. Is GEO_ACCEL_EXPECT right?"

    def _problem_with(self, arrival: Arrival) -> str | None:
        """Why it does not go with those who are there."""
        site = arrival.site
        for other, _ in self._arrived.get(site, {}).values():
            if other.job != arrival.job:
                return f"there are two sites called {site}: give each a name and a key file of its own."
            if other.size != arrival.size:
                return f"{site} has {other.size} processes by one, {arrival.size} by another."
        expect, told_by = self._told
        if None not in (arrival.expect, expect) and arrival.expect != expect:
            return (
                f"{site} expects {arrival.expect} sites, {told_by} {expect}: say the same everywhere "
                "(GEO_ACCEL_EXPECT or meet.expect), or at one site only."
            )
        most = arrival.expect or self.expect
        if len({*self._arrived, site}) > most:
            return (
                f"{site} is one too many: {most} sites are expected, and {self._names} are here. "
                "Is GEO_ACCEL_EXPECT right?"
            )
        return None

    def leave(self, arrival: Arrival) -> None:
        """The connection of this `arrival` has ended. Before all are there it is as if it had not come."""
        here = self._arrived.get(arrival.site, {})
        if arrival.place not in here or here[arrival.place][0] is not arrival:  # it has come again meanwhile
            return
        if self.roster is not None:
            self._left.add((arrival.site, arrival.place))
            return
        del here[arrival.place]
        if not here:
            del self._arrived[arrival.site]

    @property
    def _told(self) -> tuple[int | None, str]:
        """How many sites the run has, as somebody who is there has said, and who."""
        if self._expect is not None:
            return self._expect, "the meeting point"
        told = [(one.expect, site) for site, here in self._arrived.items() for one, _ in here.values() if one.expect]
        return told[0] if told else (None, "")

    @property
    def expect(self) -> int:
        """How many sites the run has: two, unless somebody says otherwise."""
        return self._told[0] or _USUAL_SITES

    @property
    def present(self) -> dict[str, tuple[int, int]]:
        """By site, how many of its processes are there, and how many it has."""
        return {
            site: (sum((site, place) not in self._left for place in here), self._size_of(site))
            for site, here in sorted(self._arrived.items())
        }

    @property
    def missing(self) -> str:
        """Who is not there yet, in words."""
        parts = [
            f"{size - there} of {size} processes of {site}"
            for site, (there, size) in self.present.items()
            if there < size
        ]
        if len(self._arrived) < self.expect:
            more = self.expect - len(self._arrived)
            parts.append(f"{more} more of {self.expect} sites (there: {self._names or 'none'})")
        return "; ".join(parts)

    @property
    def _names(self) -> str:
        return ", ".join(sorted(self._arrived))

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
