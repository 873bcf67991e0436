# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How a job becomes one site of a run: it finds the meeting point, learns who else is in, and opens its lines."""

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from geo_accel.sites.credentials import Credentials, read_credentials
from geo_accel.sites.host import Host
from geo_accel.sites.inside import InsideSite, job_group, told_by_first
from geo_accel.sites.invitation import Invitation
from geo_accel.sites.meeting import AT_MEETING, Arrival
from geo_accel.sites.port import Arrivals, Port
from geo_accel.sites.visit import Visit
from geo_accel.sites.ways import RosterWays, topology_of
from geo_accel.topology import SITE_VARIABLE, Topology, machine_label
from geo_accel.transport.base import Transport
from geo_accel.transport.links.links import LinksTransport
from geo_accel.transport.store import ControlPlane


@dataclass(slots=True, kw_only=True)
class Joined:
    """One process of a site that is in."""

    topology: Topology
    machines: tuple[str, ...]
    """By rank."""
    control: ControlPlane
    transport: Transport
    inside: InsideSite
    visit: Visit
    """While it lasts the site is in."""
    port: Port | None
    """What this process listens at for its site."""


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
    at = ("127.0.0.1" if place == 0 else environ.get("MASTER_ADDR", "127.0.0.1"), told["number"])
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
    visit = Visit(at if invitation.hosts else invitation.at, credentials, arrival, deadline_s)
    topology = topology_of(visit.roster, site, place)
    ways = RosterWays(visit.roster, topology, credentials, Arrivals(door, place), visit.address)
    control = ControlPlane(topology.rank, topology.world_size, deadline_s, visit.shelf)
    control.name_of = lambda rank: f"{topology.site_of(rank).name} (rank {rank})"
    return Joined(
        topology=topology,
        machines=tuple(f"{member.name}/{one}" for member in visit.roster.members for one in member.machines),
        control=control,
        transport=LinksTransport(topology, deadline_s, ways),
        inside=InsideSite(topology, group),
        visit=visit,
        port=opened.get("port"),
    )


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
        host, listens, address = Host(credentials, invitation.expect, _say), invitation.at, AT_MEETING
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
