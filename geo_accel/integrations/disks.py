# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which ranks write a checkpoint so that every site finds it: found out by looking, since sites may share a disk."""

import contextlib
import os
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from geo_accel.integrations.session import Session
from geo_accel.topology import Topology


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


def find_disk(folder: Path, session: Session, each_machine: bool) -> Disk:
    """Who writes into `folder`. Collective: every rank leaves a file there for a moment and looks for the others'.

    A folder that cannot be written is this rank's own; saving will say what is wrong. Raises SiteLostError, and
    ValueError where jobs share it.
    """
    return Disk.of(session.topology, _seen(folder, session), each_machine)


def require_own_folder(folder: str | os.PathLike, session: Session) -> None:
    """Raises ValueError, on every rank, where sites that are jobs of their own would save into one `folder`.

    Every job's first rank writes files of the same names. Collective for such sites.
    """
    if not session.one_world:
        _seen(Path(folder), session)


def _seen(folder: Path, session: Session) -> list[int]:
    """The ranks whose files this rank sees in `folder`."""
    topology, control = session.topology, session.control
    probe = folder / f".geo_accel-{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    try:
        names = control.gather("looking for shared disks", probe.name)
        # By name, not by listing: network file systems may list a folder as it was a while ago.
        seen = [rank for rank, name in enumerate(names) if (folder / name).exists()]
        sites = sorted({topology.site_of(rank).name for rank in (*seen, topology.rank)})
        shared = control.gather("looked for shared disks", [sites, str(folder)])
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    together = next((pair for pair in shared if len(pair[0]) > 1), None)
    if together is not None and not session.one_world:
        raise ValueError(
            f"{' and '.join(together[0])} share the folder {together[1]}, and as jobs of their own would overwrite "
            "each other's files there: give each site a folder of its own (in the lab: .../{site})."
        )
    return seen
