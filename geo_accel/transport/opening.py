# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which transport a run gets: the one place that knows its makers."""

from geo_accel.config.names import AUTO
from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.gloo import GlooTransport
from geo_accel.transport.patience import Patience


def open_transport(topology: Topology, deadline_s: float | Patience, interface: str = AUTO) -> Transport:
    """Connects this rank to its peers. Collective over all ranks.

    `deadline_s` bounds connecting and every wait afterwards (seconds), `interface` is the config's `link.interface`.
    Raises SiteLostError naming the sites, if they cannot be reached.
    """
    return GlooTransport(topology, deadline_s, interface)
