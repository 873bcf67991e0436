# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Before the first step: do all sites mean the same run?"""

from collections.abc import Mapping

from geo_accel.config import GeoConfig, differences
from geo_accel.masters import Masters
from geo_accel.topology import Topology
from geo_accel.transport.store import ControlPlane
from geo_accel.version import __version__


def require_same(
    control: ControlPlane,
    topology: Topology,
    config: GeoConfig,
    masters: Masters,
    facts: Mapping[str, object],
    untrained: Mapping[str, int],
) -> None:
    """Raises ValueError, with the same text on every rank, naming the sites and what differs between them.

    Compares version, config, units, initial weights (by checksum) and `facts` (anything a caller wants equal, by
    name, such as the number of steps). `untrained` are checksums of other weights, by name.
    """
    answers = control.gather(
        "comparing configs and weights",
        {
            "geo_accel version": __version__,
            "config": config.to_dict(),
            "units": [[unit.name, unit.numel] for unit in masters.units],
            "weights": masters.checksums(),
            "untrained": dict(untrained),
            "facts": dict(facts),
        },
    )
    for rank, answer in enumerate(answers[1:], start=1):
        first = counterpart(topology, masters, rank)
        problem = _difference(answers[first], answer)
        if problem:
            raise ValueError(
                f"{topology.called(first)} and {topology.called(rank)} differ before the first step: {problem}"
            )


def counterpart(topology: Topology, masters: Masters, rank: int) -> int:
    """The rank of the first site that must hold what `rank` holds."""
    # Ranks that hold a share each are like their peers, not like one another.
    return 0 if masters.replicated else topology.sites[0].ranks[topology.place_of(rank)]


def _difference(a: dict, b: dict) -> str | None:
    if a["geo_accel version"] != b["geo_accel version"]:
        return f"geo_accel {a['geo_accel version']} and {b['geo_accel version']}; install the same version everywhere."
    config = differences(a["config"], b["config"])
    if config:
        return f"config {'; '.join(config)}. Use the same config on every site."
    for name in {**a["facts"], **b["facts"]}:
        one, other = a["facts"].get(name), b["facts"].get(name)
        if one != other:
            return f"{name} is {one} and {other}; they must be equal."
    if a["units"] != b["units"]:
        odd = [x for x in a["units"] if x not in b["units"]] + [x for x in b["units"] if x not in a["units"]]
        return f"the models are not the same (first at {odd[0][0] if odd else 'the order of layers'})."
    weights = [name for name in a["weights"] if a["weights"][name] != b["weights"][name]]
    if weights:
        more = f" and {len(weights) - 1} more units" if len(weights) > 1 else ""
        return (
            f"initial weights of {weights[-1]}{more}. Load the same checkpoint on every site, or set the same seed "
            "before building the model."
        )
    untrained = [
        name for name in {**a["untrained"], **b["untrained"]} if a["untrained"].get(name) != b["untrained"].get(name)
    ]
    if untrained:
        more = f" and {len(untrained) - 1} more" if len(untrained) > 1 else ""
        return f"weights that are not trained, {untrained[0]}{more}. Load the same checkpoint on every site."
    return None
