# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A control plane inside one process: ranks are threads, which lay their messages on a table."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

WAIT_S = 10.0


class Table:
    """Where the ranks of one gather lay what they do and their messages down; JSON, as in the real one."""

    def __init__(self, ranks: int) -> None:
        self.messages: list = [None] * ranks
        self.barrier = threading.Barrier(ranks, timeout=WAIT_S)


class Control:
    """One rank's, which does what a ControlPlane does where all ranks come."""

    def __init__(self, rank: int, tables: Sequence[Table]) -> None:
        """`tables`: the first for this one, the rest for `another`."""
        self._rank, self._tables = rank, tables
        self.name_of: Callable[[int], str] = lambda rank: f"rank {rank}"

    def another(self) -> "Control":
        second = Control(self._rank, self._tables[1:])
        second.name_of = self.name_of
        return second

    def gather(self, what: str, message: object) -> list:
        table = self._tables[0]
        table.messages[self._rank] = json.dumps([what, message])
        table.barrier.wait()
        told = [json.loads(text) for text in table.messages]
        table.barrier.wait()  # before anybody lays down the next
        assert {doing for doing, _ in told} == {what}
        return [message for _, message in told]


def on_ranks(ranks: int, work: Callable[[int, Control], object]) -> list:
    """What `work(rank, control)` returned on each of `ranks` ranks, which run at the same time, or the error that it
    raised there."""
    tables = [Table(ranks), Table(ranks)]

    def guarded(rank: int) -> object:
        try:
            return work(rank, Control(rank, tables))
        except (ValueError, OSError, AssertionError) as error:
            return error

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(guarded, range(ranks)))


def same_line(results: list) -> str:
    """The one line that every rank refuses with."""
    assert all(isinstance(result, ValueError) for result in results), results
    (line,) = {str(result) for result in results}
    assert "\n" not in line
    return line
