# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How ranks of a roster reach each other: who dials whom, over which port or relay, and how each proves who it is."""

import itertools
import socket
import ssl
from collections.abc import Iterator

from geo_accel.sites.credentials import Credentials, Shown
from geo_accel.sites.first_bytes import FirstBytes, For, number_of, relay_token
from geo_accel.sites.invitation import Address, address_of
from geo_accel.sites.meeting import AT_MEETING, Member, Roster
from geo_accel.sites.port import Arrivals
from geo_accel.topology import Site, Topology
from geo_accel.transport.links.hello import Hello
from geo_accel.transport.links.ways import Route


def topology_of(roster: Roster, name: str, place: int) -> Topology:
    """All ranks, counted through the members in their order, seen from process `place` of member `name`."""
    sites, first = [], 0
    for member in roster.members:
        sites.append(Site(name=member.name, ranks=tuple(range(first, first + member.size))))
        first += member.size
    own = next(site for site in sites if site.name == name)
    return Topology(sites=tuple(sites), rank=own.ranks[place], generation=roster.generation)


class RosterWays:
    """One rank's ways to all others."""

    def __init__(
        self,
        roster: Roster,
        topology: Topology,
        credentials: Credentials,
        arrivals: Arrivals,
        relay: Address,
        channel: int = 0,
    ) -> None:
        """`arrivals` are its port's. At `relay`, the meeting point, those meet who cannot dial each other.
        Of several transports between the same ranks each has a `channel` of its own."""
        self._roster, self._topology, self._arrivals = roster, topology, arrivals
        self.client, self.server = credentials.client(), credentials.server()
        self._relay, self._channel = relay, channel
        self._addresses: dict[Address, Iterator[tuple]] = {}

    def hello(self, peer: int, line: int) -> Hello:
        return Hello(
            run=self._roster.run,
            generation=self._roster.generation,
            sender=self._topology.rank,
            receiver=peer,
            line=line,
        )

    def route(self, peer: int, line: int) -> Route | None:
        """The later of two in order dials the earlier where that can be dialled, else the earlier the later.

        Where neither can, both dial the relay. Raises ValueError for a name that does not resolve.
        """
        me = self._topology.rank
        low, high = sorted((me, peer))
        dialled = next((one for one in (low, high) if self._address(one) is not None), None)
        if dialled is None:
            token = relay_token(self._roster.secret, low, high)
            number = number_of(line, self._channel)
            first = FirstBytes(whom=For.RELAY, number=number, token=token, side=int(me == high))
            return Route(self._next(self._relay), first.to_bytes(), answers=me == low)
        if dialled == me:
            return None
        text = self._address(dialled)
        assert text is not None
        whose = self._topology.site_of(dialled).name
        address = self._relay if text == AT_MEETING else address_of(text, f"the address of {whose}", "host:port")
        number = number_of(self._topology.site_of(peer).ranks.index(peer), self._channel)
        return Route(self._next(address), FirstBytes(whom=For.PROCESS, number=number).to_bytes())

    def problem_with(self, connection: ssl.SSLObject | ssl.SSLSocket, peer: int) -> str | None:
        shown, member = Shown.by(connection), self._member(peer)
        if shown.fingerprint in member.fingerprints:
            return None
        return f"it shows a certificate of site {shown.site}, which is not the one that {member.name} came with"

    def fileno(self) -> int:
        return self._arrivals.fileno()

    def arrived(self) -> list[socket.socket]:
        return self._arrivals.take()

    def close(self) -> None:
        self._arrivals.close()

    def _member(self, rank: int) -> Member:
        name = self._topology.site_of(rank).name
        return next(member for member in self._roster.members if member.name == name)

    def _address(self, rank: int) -> str | None:
        return self._member(rank).addresses[self._topology.site_of(rank).ranks.index(rank)]

    def _next(self, address: Address) -> tuple:
        """One after the other of what its name resolves to, which is asked once: (family, address)."""
        if address not in self._addresses:
            try:
                found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
            except socket.gaierror as error:
                raise ValueError(
                    f"{address[0]}, where a site is to be dialled, does not resolve ({error})."
                ) from error
            self._addresses[address] = itertools.cycle([(family, where) for family, *_, where in found])
        return next(self._addresses[address])
