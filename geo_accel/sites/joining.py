# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How a job becomes one site of a run: it finds the meeting point, learns who else is in, and opens its lines."""

import atexit
import itertools
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from geo_accel.sites.credentials import Credentials, read_credentials
from geo_accel.sites.first_bytes import number_of
from geo_accel.sites.host import Host
from geo_accel.sites.inside import InsideSite, any_of, job_group, told_by_first
from geo_accel.sites.invitation import Invitation, address_text
from geo_accel.sites.meeting import AT_MEETING, Arrival
from geo_accel.sites.port import Arrivals, Port
from geo_accel.sites.visit import Visit
from geo_accel.sites.ways import RosterWays, topology_of
from geo_accel.topology import SITE_VARIABLE, machine_label
from geo_accel.transport.base import Transport
from geo_accel.transport.links.links import LinksTransport
from geo_accel.transport.patience import Patience
from geo_accel.transport.store import ControlPlane, KeyStore

_LINGER_S = 30.0
"""So long the process that holds the meeting point stays at its end for others who have not left."""


@dataclass(slots=True, kw_only=True)
class Connections:
    """What one engine talks over, apart from all others'."""

    control: ControlPlane
    transport: Transport
    inside: InsideSite


@dataclass(slots=True)
class _Opened:
    """What this process serves others with, if anything."""

    port: Port | None = None
    """At which it listens for its site."""
    host: Host | None = None
    """Where all sites meet."""

    def close(self, linger_s: float = 0.0) -> None:
        """Ends both, once all members have left the meeting point, or after `linger_s` seconds."""
        if self.host is not None:
            self.host.wait_until_left(linger_s)
            self.host.close()
        if self.port is not None:
            self.port.close()


class Joined:
    """One process of a site that is in."""

    def __init__(self, visit: Visit, place: int, credentials: Credentials, door: str | None, opened: _Opened) -> None:
        """`place` is this process's rank in its site, `door` where it takes its connections, if anywhere."""
        self.topology = topology_of(visit.roster, credentials.site, place)
        self.machines = tuple(f"{one.name}/{machine}" for one in visit.roster.members for machine in one.machines)
        """By rank."""
        self._visit, self._served = visit, opened
        self._place, self._credentials, self._door = place, credentials, door
        self._channels, self._shelves = 0, itertools.count()
        self._opened: list[Transport] = []
        atexit.register(self._leave)

    def connect(self, deadline_s: float, patience: Patience) -> Connections:
        """Lines to all peers, and what else an engine needs. Collective over all sites.

        Every call opens others than before. `deadline_s` bounds every wait of the control plane (seconds), `patience`
        how long a peer may show no progress. Raises SiteLostError for sites that cannot be reached.
        """
        topology, visit, channel = self.topology, self._visit, self._channels
        self._channels += 1
        # Each has a group of its own: two threads that used one would hear each other's messages.
        inside = InsideSite(topology, job_group(deadline_s))
        arrivals = Arrivals(self._door, number_of(self._place, channel))
        ways = RosterWays(visit.roster, topology, self._credentials, arrivals, visit.address, channel)
        control = ControlPlane(topology.rank, topology.world_size, deadline_s, self._open_shelf)
        control.name_of = topology.called
        transport = LinksTransport(topology, patience, ways)
        self._opened.append(transport)
        return Connections(control=control, transport=transport, inside=inside)

    def _open_shelf(self, _: str) -> KeyStore:
        """The next one. How many control planes a job has made for itself, which numbers them, is its own business."""
        return self._visit.shelf(f"{next(self._shelves)}/")

    def _leave(self) -> None:
        """The process ends. Who holds the meeting point stays until the others have left it, for a while."""
        for transport in self._opened:
            transport.close()
        self._visit.close()
        # What the meeting point keeps may be what another site has yet to hear.
        self._served.close(_LINGER_S)


def join(invitation: Invitation, deadline_s: float, environ: Mapping[str, str]) -> Joined:
    """Joins the run that `invitation` is to. Collective over the ranks of this job, which are one site.

    `deadline_s` bounds how long anybody is waited for (seconds). Raises ValueError, on every rank of the job alike,
    for a key file or an address that cannot be used and for what the meeting point refuses; SiteLostError for sites
    that do not come or cannot be reached.
    """
    group = job_group(deadline_s)
    place, size = (dist.get_rank(), dist.get_world_size()) if group is not None else (0, 1)
    opened = _Opened()
    credentials = _read_keys(group, invitation, environ)
    told = told_by_first(group, _answer(lambda: _open(invitation, credentials, opened)) if place == 0 else None)
    try:
        if "error" in told:
            raise ValueError(told["error"])
        # A door is on one machine. Processes of the site on others are not dialled: they dial, or meet at a relay.
        door = told["door"] if told["door"] and os.path.exists(told["door"]) else None
        arrival = Arrival(
            site=credentials.site,
            job=told["job"],
            place=place,
            size=size,
            machine=machine_label(environ),
            address=told["address"] if door else None,
            expect=invitation.expect,
        )
        at = invitation.at
        if invitation.hosts:
            here = environ.get("MASTER_ADDR", "127.0.0.1") if place else "127.0.0.1"
            at = (invitation.at[0] or here, invitation.at[1])
        visit = Visit(at, credentials, arrival, deadline_s)
    except BaseException:
        opened.close()  # who mends what was wrong and tries again in this process finds the port free
        raise
    return Joined(visit, place, credentials, door, opened)


def _read_keys(group: dist.ProcessGroup | None, invitation: Invitation, environ: Mapping[str, str]) -> Credentials:
    """This rank's, from a file of which each machine of the site has its own copy.

    Raises ValueError on every rank where it does on one: nobody waits at the meeting point for who cannot come.
    """
    problem, credentials = None, None
    try:
        credentials = read_credentials(invitation.keys)
        require_name(credentials, environ)
    except ValueError as error:
        problem = error
    if any_of(group, int(problem is not None)):
        raise problem or ValueError(
            f"another process of this site cannot use its key file {invitation.keys}, and says why: every machine of "
            "the site needs it."
        )
    assert credentials is not None
    return credentials


def require_name(credentials: Credentials, environ: Mapping[str, str]) -> None:
    """Raises ValueError where the environment calls the site otherwise than its key file."""
    told = environ.get(SITE_VARIABLE)
    if told and told != credentials.site:
        raise ValueError(
            f"{SITE_VARIABLE} says {told}, but the key file {credentials.path} is {credentials.site}'s: give each "
            "site its own key file."
        )


def _open(invitation: Invitation, credentials: Credentials, opened: _Opened) -> dict[str, Any]:
    """What the site's first process does for all: it listens, where the site is to."""
    address = None
    if invitation.hosts:
        host = opened.host = Host(credentials, invitation.expect, _say)
        opened.port, address = Port(*invitation.at, host.talk, host.relays), AT_MEETING
    elif invitation.listen is not None:
        # Others dial what is named; here all interfaces are listened at, since a name may be that of a gateway.
        opened.port, address = Port("", invitation.listen[1]), address_text(invitation.listen)
    door = None if opened.port is None else str(opened.port.door)
    return {"job": secrets.token_hex(8), "address": address, "door": door}


def _say(line: str) -> None:
    print(f"geo_accel: {line}", file=sys.stderr)


def _answer(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except ValueError as error:
        return {"error": str(error)}
    except OSError as error:  # a full disk, say; the others of the site wait for the answer
        return {"error": f"the first process of this site cannot open its port: {error}."}
