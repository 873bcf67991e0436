# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How a job was launched: as one site, or over all sites. All its ranks have to say the same, or they would wait for
each other in unlike places."""

import os
from collections.abc import Mapping, Sequence

import torch.distributed as dist

from geo_accel.sites.credentials import read_key_file
from geo_accel.sites.invitation import MEET_VARIABLE, Invitation
from geo_accel.topology import SITE_VARIABLE
from geo_accel.transport.store import ControlPlane

_NAMED = 8


def refuse_mixture(control: ControlPlane, invitation: Invitation | None) -> None:
    """Raises ValueError, on every rank alike, in a job of which some ranks alone are invited to a meeting, or of which
    the ranks are of unlike sites though they are. Collective over the job, whose ranks `control` joins."""
    told = control.gather("starting", [invitation is not None, _site_of(invitation)])
    invited = [rank for rank, (is_invited, _) in enumerate(told) if is_invited]
    others = [rank for rank, (is_invited, _) in enumerate(told) if not is_invited]
    if invited and others:
        raise ValueError(
            f"{MEET_VARIABLE} (or meet.at) is set on {_named(invited)} of this job, but not on {_named(others)}: with "
            "a job per site every process has it, and a job spans one site; with one job over all sites none has it."
        )
    sites = {site: rank for rank, (_, site) in reversed(list(enumerate(told))) if site is not None}
    if len(sites) > 1:
        named = ", ".join(f"{site} (rank {rank})" for site, rank in sorted(sites.items(), key=lambda one: one[1]))
        raise ValueError(
            f"this job of {len(told)} processes spans the sites {named}, though {MEET_VARIABLE} (or meet.at) is set: "
            f"launch a job of its own at each site, or leave {MEET_VARIABLE} out for one job over all sites."
        )


def require_known_ranks(environ: Mapping[str, str] = os.environ) -> None:
    """Raises ValueError where a launcher started several processes as one site, and this one knows of no other: each
    would come to the meeting as a site of the same name."""
    launched = environ.get("WORLD_SIZE", "")
    if launched.isdigit() and int(launched) > 1 and not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"this process knows of no other, but WORLD_SIZE is {launched}: make the process group before GeoSync "
            "(on CPUs Accelerator(cpu=True) does, or ACCELERATE_USE_CPU=true), or start one process per site."
        )


def _site_of(invitation: Invitation | None) -> str | None:
    """By its key file, or the environment; None where neither says. What is wrong with a file is said later."""
    if invitation is None:
        return None
    try:
        return read_key_file(invitation.keys).about.site
    except ValueError:
        return os.environ.get(SITE_VARIABLE) or None


def _named(ranks: Sequence[int]) -> str:
    return f"rank(s) {', '.join(map(str, ranks[:_NAMED]))}{', ...' if len(ranks) > _NAMED else ''}"
