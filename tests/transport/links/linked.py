# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites as threads of one process that are joined by links: real keys, a meeting point, ports and TLS, on loopback."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from geo_accel.sites import authority
from geo_accel.sites.credentials import Credentials, read_credentials
from geo_accel.sites.first_bytes import number_of
from geo_accel.sites.host import Host
from geo_accel.sites.meeting import Arrival, Roster
from geo_accel.sites.port import Arrivals, Port
from geo_accel.sites.visit import Address, Visit
from geo_accel.sites.ways import RosterWays, topology_of
from geo_accel.transport.links.links import LinksTransport
from tests.transport.threads import DEADLINE_S

LOOPBACK = "127.0.0.1"
LINES = 4
"""For payload, per pair: tests are about what lines do, not how many there are."""


def keys(folder: Path, sites: int) -> list[Credentials]:
    """Those of site0, site1 and so on, of an authority made in `folder`."""
    authority.init(folder)
    return [read_credentials(authority.add(folder, f"site{rank}")) for rank in range(sites)]


class Linked:
    """Sites of one rank each that have met, with a port where they listen."""

    def __init__(self, credentials: Sequence[Credentials], listening: Sequence[int]) -> None:
        """The first of `listening` has the meeting point behind its port."""
        self._ends = ExitStack()
        self.credentials, self.sites = credentials, len(credentials)
        host = Host(credentials[listening[0]], self.sites, lambda line: None)
        self._ends.callback(host.close)
        self.ports = {rank: self._port(host if rank == listening[0] else None) for rank in listening}
        self.meeting = (LOOPBACK, self.ports[listening[0]].number)
        with ThreadPoolExecutor(self.sites) as pool:
            self._visits = list(pool.map(self._visit, range(self.sites)))
        for visit in self._visits:
            self._ends.callback(visit.close)

    def __enter__(self) -> "Linked":
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    @property
    def roster(self) -> Roster:
        return self._visits[0].roster

    def ways(self, rank: int) -> RosterWays:
        return ways_of(self._visits[rank], self.credentials[rank], rank, self.ports.get(rank), self.meeting)

    def transport(self, rank: int, deadline_s: float = DEADLINE_S, lines: int = LINES) -> LinksTransport:
        """Made while the others make theirs."""
        return LinksTransport(topology_of(self.roster, f"site{rank}", 0), deadline_s, self.ways(rank), lines)

    def on_all(self, work: Callable[[LinksTransport], object], deadline_s: float = DEADLINE_S) -> list:
        """What `work(transport)` returns on each site, which run at the same time. All are closed afterwards."""

        def one(rank: int) -> object:
            with closing(self.transport(rank, deadline_s)) as transport:
                return work(transport)

        with ThreadPoolExecutor(self.sites) as pool:
            futures = [pool.submit(one, rank) for rank in range(self.sites)]
            return [future.result(timeout=60) for future in futures]

    def _port(self, host: Host | None) -> Port:
        meeting, relays = (None, None) if host is None else (host.talk, host.relays)
        return self._ends.enter_context(closing(Port(LOOPBACK, 0, meeting, relays)))

    def _visit(self, rank: int) -> Visit:
        return visit(self.meeting, self.credentials[rank], rank, self.ports.get(rank))


def visit(meeting: Address, credentials: Credentials, rank: int, port: Port | None) -> Visit:
    """Of site number `rank`, of one rank, which listens at `port`."""
    address = None if port is None else f":{port.number}"
    arrival = Arrival(site=f"site{rank}", job=f"job{rank}", place=0, size=1, machine="here", address=address)
    return Visit(meeting, credentials, arrival, DEADLINE_S)


def ways_of(
    visit: Visit, credentials: Credentials, rank: int, port: Port | None, meeting: Address, channel: int = 0
) -> RosterWays:
    """A transport after another one has a `channel` of its own: some rank may still be closing the one before."""
    topology = topology_of(visit.roster, f"site{rank}", 0)
    arrivals = Arrivals(port and port.door, number_of(0, channel))
    return RosterWays(visit.roster, topology, credentials, arrivals, meeting, channel)
