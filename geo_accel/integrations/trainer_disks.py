# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which ranks write a checkpoint so that every site finds it: found out by looking, since sites may share a disk."""

import contextlib
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from geo_accel.topology import Topology
from geo_accel.transport.store import ControlPlane


@dataclass(frozen=True, slots=True)
class Disk:
    """What this rank writes into a folder."""

    writes_whole: bool
    """Weights, tokenizer and Trainer's state: once on each disk that a site's first rank sees."""
    writes_site: bool
    """This site's own state: once on each disk that the site sees."""

    @classmethod
    def of(cls, topology: Topology, seen: Collection[int], each_machine: bool) -> "Disk":
        """`seen` are the ranks whose files this rank sees; with `each_machine` every machine wants a whole checkpoint.

        Without it a site's first rank alone does, as plain Trainer writes on the job's first.
        """
        here = {*seen, topology.rank}
        firsts = {site.ranks[0] for site in topology.sites}
        return cls(
            writes_whole=topology.rank == min(here if each_machine else here & firsts, default=None),
            writes_site=topology.rank == min(here & set(topology.site.ranks)),
        )


def find_disk(folder: Path, topology: Topology, control: ControlPlane, each_machine: bool) -> Disk:
    """Who writes into `folder`. Collective: every rank leaves a file there for a moment and looks for the others'.

    A folder that cannot be written is this rank's own; saving will say what is wrong. Raises SiteLostError.
    """
    probe = folder / f".geo_accel-{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    try:
        names = control.gather("looking for shared disks", probe.name)
        # By name, not by listing: network file systems may list a folder as it was a while ago.
        seen = [rank for rank, name in enumerate(names) if (folder / name).exists()]
        control.gather("looked for shared disks", None)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return Disk.of(topology, seen, each_machine)
