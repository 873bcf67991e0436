# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Ranks of several sites as threads of one process: what saving and loading ask of engine and control plane."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch

from geo_accel.config import load_config
from geo_accel.topology import Site, Topology

SITES = (Site("left", (0, 1)), Site("right", (2,)))


class Table:
    """Where the ranks of one gather lay their messages down; JSON, as in the real one."""

    def __init__(self, ranks: int) -> None:
        self.messages: list = [None] * ranks
        self.barrier = threading.Barrier(ranks)


class Control:
    def __init__(self, rank: int, table: Table, sites: tuple[Site, ...]) -> None:
        self._rank, self._table = rank, table
        self.name_of = lambda r: f"{next(site.name for site in sites if r in site.ranks)} (rank {r})"

    def gather(self, what: str, message: object) -> list:
        self._table.messages[self._rank] = json.dumps(message)
        self._table.barrier.wait(5)
        answers = [json.loads(text) for text in self._table.messages]
        self._table.barrier.wait(5)
        return answers


class Engine:
    """What saving and loading ask of an engine."""

    def __init__(self, rank: int, table: Table, sites: tuple[Site, ...], step: int, weights: int) -> None:
        self.topology = Topology(sites=sites, rank=rank)
        self.control = Control(rank, table, sites)
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
    ranks = sum(len(site.ranks) for site in sites)
    table = Table(ranks)
    engines = [Engine(rank, table, sites, step, weights) for rank in range(ranks)]

    def guarded(engine):
        try:
            return work(engine)
        except (ValueError, OSError, AssertionError) as error:
            return error

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(guarded, engines)), engines
