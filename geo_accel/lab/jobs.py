# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A job per site: what tells each job its site's name, where the others are, and that they are the right ones."""

import contextlib
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from geo_accel.lab.sites import Site, plain_environment

MEETING_PORT = 29400
"""Where sites meet in the lab's own network."""


def spans(command: Sequence[str]) -> bool:
    """Whether a command is written for one job over all sites: it says where their common master is."""
    return any("{master}" in argument for argument in command)


def job_environment(site: Site, sites: Sequence[Site], *, port: int, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of one site's job, made from `base`, whose own GEO_ACCEL_* variables win.

    The sites meet at `port` of the first one that can be dialled. Ranks are the business of the job's own launcher.
    """
    environment = plain_environment(base)
    # The job's own ranks are on one machine.
    environment["GLOO_SOCKET_IFNAME"] = "lo"
    place = next(one for one in sites if not one.nat)
    here = f"listen:{port}" if site.bandwidth_mbps is not None else f"listen:{place.address}:{port}"
    environment.setdefault("GEO_ACCEL_SITE", site.name)
    environment.setdefault("GEO_ACCEL_MEET", here if site is place else f"{place.address}:{port}")
    environment.setdefault("GEO_ACCEL_EXPECT", str(len(sites)))
    return environment


@contextlib.contextmanager
def keys_in(environments: Sequence[dict[str, str]]) -> Generator[str | None]:
    """Sets GEO_ACCEL_KEYS, where it is not set, to a key file of an authority that lives as long as the block.

    Yields the folder that is to vanish with it, None where no keys were needed.

    Raises ValueError where keys cannot be made, as without the package `cryptography`.
    """
    without = [one for one in environments if "GEO_ACCEL_KEYS" not in one]
    if not without:
        yield None
        return
    # Everything that the lab starts imports this module, and few need keys.
    from geo_accel.sites import authority

    with tempfile.TemporaryDirectory(prefix="geo_accel-lab-keys-") as name:
        folder = Path(name)
        try:
            authority.init(folder)
        except ValueError as error:
            raise ValueError(f"each site's job needs a key file, and {error}; or add --one-job") from error
        paths = {site: authority.add(folder, site) for site in {one["GEO_ACCEL_SITE"] for one in without}}
        for one in without:
            one["GEO_ACCEL_KEYS"] = str(paths[one["GEO_ACCEL_SITE"]])
        yield name
