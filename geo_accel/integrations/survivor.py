# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a site keeps when another one is lost, and what became of it in one honest sentence."""

from collections.abc import Callable
from pathlib import Path

from geo_accel.sync.every_rank import in_one_line
from geo_accel.topology import Topology
from geo_accel.transport.errors import SiteLostError


class SurvivedError(SiteLostError):
    """A lost site, and in the same line what this site has saved of its own."""


def save_survivor(topology: Topology, project: Path, step: int, save_alone: Callable[[Path], bool]) -> str:
    """Calls `save_alone` with this site's folder in `project`; whether it wrote is what it returns.

    Never raises for what goes wrong: the lost site is the news, and its name must not be hidden.
    """
    site = topology.site.name
    folder = project / f"survivor-{site}"
    what = f"{site}'s model and optimizer at step {step}"
    try:
        wrote = save_alone(folder)
    except Exception as error:
        return f"{what} could not be saved in {folder} ({in_one_line(error)})."
    if not wrote:
        return f"Rank {topology.site.ranks[0]} of {site} saves {what} in {folder}, if it lives."
    return f"Saved {what} in {folder}."
