# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Ranks of several sites as threads of one process: what saving and loading ask of an engine."""

from collections.abc import Callable
from types import SimpleNamespace

import torch

from geo_accel.config import load_config
from geo_accel.topology import Site, Topology
from tests.transport import table
from tests.transport.table import Control

SITES = (Site("left", (0, 1)), Site("right", (2,)))


class Engine:
    """What saving and loading ask of an engine."""

    def __init__(self, topology: Topology, control: Control, step: int, weights: int) -> None:
        rank = topology.rank
        self.topology, self.control = topology, control
        self.control.name_of = lambda r: f"{topology.site_of(r).name} (rank {r})"
        self.config = load_config({})
        self.step_count, self.adopted, self.plan = step, 1, None
        self.planning = SimpleNamespace(profile=None)
        self.masters = SimpleNamespace(checksums=lambda: {"layer": weights}, replicated=True)
        self.outer_state = torch.full((3,), float(rank)) if step else None
        self.restored: dict | None = None

    def flush(self) -> None:
        pass

    def restore(self, **state: object) -> None:
        self.restored = state


def on_ranks(work: Callable[[Engine], object], sites=SITES, step=0, weights=7) -> tuple[list, list[Engine]]:
    """What `work(engine)` returned or raised on every rank, and the engines."""
    engines = {}

    def with_engine(rank: int, control: Control) -> object:
        engines[rank] = Engine(Topology(sites=sites, rank=rank), control, step, weights)
        return work(engines[rank])

    results = table.on_ranks(sum(len(site.ranks) for site in sites), with_engine)
    return results, [engines[rank] for rank in sorted(engines)]
