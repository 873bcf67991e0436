# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a plan's document says of single sites: by their names in the file, by their places in the program."""

from collections.abc import Sequence
from typing import Any

from geo_accel.config.names import Exchange

_KEYS = ("kept", "coefficients")


def named(fields: dict[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    """The `fields` of an averaging with the names of `sites` for places. Only exchange "hub" has a hub."""
    said = {key: dict(zip(sites, fields[key], strict=True)) if fields[key] else {} for key in _KEYS}
    return {**fields, **said, "hub": sites[fields["hub"]] if fields["exchange"] == Exchange.HUB else None}


def placed(fields: dict[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    """What `named` has named, by places among `sites`. Raises ValueError where it is of other sites."""
    said: dict[str, Any] = {}
    for key in _KEYS:
        values = fields[key]
        if not isinstance(values, dict):
            raise ValueError(f"plan: {key} is {values!r}; where sites are named, it is by their names.")
        if values and values.keys() != set(sites):
            raise ValueError(f"plan: {key} names {', '.join(values)}; its sites are {', '.join(sites)}.")
        said[key] = tuple(values[site] for site in sites) if values else ()
    hub = fields["hub"]
    if hub is not None and hub not in sites:
        raise ValueError(f"plan: hub is {hub!r}; its sites are {', '.join(sites)}.")
    return {**fields, **said, "hub": 0 if hub is None else sites.index(hub)}
