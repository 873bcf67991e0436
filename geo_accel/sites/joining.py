# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How a job becomes one site of a run: it finds the meeting point, learns who else is in, and opens its lines."""

import atexit
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
from geo_accel.sites.inside import InsideSite, job_group, told_by_first
from geo_accel.sites.invitation import Invitation
from geo_accel.sites.meeting import AT_MEETING, Arrival
from geo_accel.sites.port import Arrivals, Port
from geo_accel.sites.visit import Visit
from geo_accel.sites.ways import RosterWays, topology_of
from geo_accel.topology import SITE_VARIABLE, machine_label
from geo_accel.transport.base import Transport
from geo_accel.transport.links.links import LinksTransport
from geo_accel.transport.patience import Patience
from geo_accel.transport.store import ControlPlane

_LINGER_S = 30.0
"""So long the process that holds the meeting point stays at its end for others who have not left."""


@dataclass(slots=True, kw_only=True)
class Connections:
    """What one engine talks over, apart from all others'."""

    control: ControlPlane
    transport: Transport
    inside: InsideSite


class Joined:
    """One process of a site that is in."""

    def __init__(
        self,
        visit: Visit,
        site: str,
        place: int,
        credentials: Credentials,
        door: str | None,
        port: Port | None,
        host: Host | None,
    ) -> None:
        """`place` is this process's rank in its site, `door` where it takes its connections, if anywhere; `port` what
        this process listens at for its site, and `host` for all."""
        self.topology = topology_of(visit.roster, site, place)
        self.machines = tuple(f"{one.name}/{machine}" for one in visit.roster.members for machine in one.machines)
        """By rank."""
        self._visit, self._port, self._host = visit, port, host
        self._place, self._credentials, self._door = place, credentials, door
        self._channels = 0
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
        control = ControlPlane(topology.rank, topology.world_size, deadline_s, visit.shelf)
        control.name_of = lambda rank: f"{topology.site_of(rank).name} (rank {rank})"
        transport = LinksTransport(topology, patience, ways)
        self._opened.append(transport)
        return Connections(control=control, transport=transport, inside=inside)

    def _leave(self) -> None:
        """The process ends. Who holds the meeting point stays until the others have left it, for a while."""
        for transport in self._opened:
            transport.close()
        self._visit.close()
        if self._host is not None:
            # What it keeps may be what another site has yet to hear.
            self._host.wait_until_left(_LINGER_S)
            self._host.close()
        if self._port is not None:
            self._port.close()


def join(invitation: Invitation, deadline_s: float, environ: Mapping[str, str]) -> Joined:
    """Joins the run that `invitation` is to. Collective over the ranks of this job, which are one site.

    `deadline_s` bounds how long anybody is waited for (seconds). Raises ValueError, on every rank of the job alike,
    for a key file or an address that cannot be used and for what the meeting point refuses; SiteLostError for sites
    that do not come or cannot be reached.
    """
    group = job_group(deadline_s)
    place, size = (dist.get_rank(), dist.get_world_size()) if group is not None else (0, 1)
    opened: dict[str, Any] = {}
    told = told_by_first(group, _answer(lambda: _open(invitation, environ, opened)) if place == 0 else None)
    if "error" in told:
        raise ValueError(told["error"])
    credentials = opened.get("credentials") or read_credentials(invitation.keys)
    site = site_name(credentials, environ)
    # A door is on one machine. Processes of the site on others are not dialled: they dial, or meet at a relay.
    door = told["door"] if told["door"] and os.path.exists(told["door"]) else None
    arrival = Arrival(
        site=site,
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
        at = (invitation.at[0] or here, told["number"])
    visit = Visit(at, credentials, arrival, deadline_s)
    return Joined(visit, site, place, credentials, door, opened.get("port"), opened.get("host"))


def site_name(credentials: Credentials, environ: Mapping[str, str]) -> str:
    """The key file's, which the environment may repeat but not contradict: ValueError."""
    told = environ.get(SITE_VARIABLE)
    if told and told != credentials.site:
        raise ValueError(
            f"{SITE_VARIABLE} says {told}, but the key file {credentials.path} is {credentials.site}'s: give each "
            "site its own key file."
        )
    return credentials.site


def _open(invitation: Invitation, environ: Mapping[str, str], opened: dict[str, Any]) -> dict[str, Any]:
    """What the site's first process does for all: it reads the key file and listens, where the site is to."""
    credentials = opened["credentials"] = read_credentials(invitation.keys)
    site_name(credentials, environ)
    number, address, listens = invitation.at[1], None, None
    host = None
    if invitation.hosts:
        host = opened["host"] = Host(credentials, invitation.expect, _say)
        listens, address = invitation.at, AT_MEETING
    elif invitation.listen is not None:
        # Others dial what is named; here all interfaces are listened at, since a name may be that of a gateway.
        listens, address = ("", invitation.listen[1]), _text(*invitation.listen)
    door = None
    if listens is not None:
        meeting, relays = (None, None) if host is None else (host.talk, host.relays)
        port = opened["port"] = Port(*listens, meeting, relays)
        door = str(port.door)
    return {"job": secrets.token_hex(8), "number": number, "address": address, "door": door}


def _text(host: str, number: int) -> str:
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def _say(line: str) -> None:
    print(f"geo_accel: {line}", file=sys.stderr)


def _answer(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except ValueError as error:
        return {"error": str(error)}
