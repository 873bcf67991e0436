# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The control plane: small JSON messages through the job's key-value store, with deadlines that name the late.

A barrier or gather over a process group cannot say who is missing; a missing key can.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, distributed_c10d

from geo_accel.transport.errors import SiteLostError

# So long the store itself waits for the others, which takes two round trips and no looking again. Whoever is later
# is looked for, and can be named.
PATIENCE_S = 10.0
POLL_S = 0.2
_generations = 0


def default_store() -> Store:
    """The store that `init_process_group` made. torch has no public accessor; this is the only place that asks."""
    return distributed_c10d._get_default_store()


def _own_connection(deadline_s: float) -> Store:
    """The job's store over a connection of its own: while a store waits, whoever shares its connection waits too."""
    shared = default_store()
    usual = shared.timeout
    shared.set_timeout(seconds(deadline_s))  # of connecting too, and by default half an hour
    try:
        return shared.clone()
    finally:
        shared.set_timeout(usual)


class ControlPlane:
    """Gathers of JSON objects over all ranks, in the same order on every rank. For one thread."""

    def __init__(self, rank: int, world_size: int, deadline_s: float) -> None:
        global _generations
        _generations += 1  # every rank builds its control planes in the same order, so prefixes agree
        self._rank = rank
        self._world_size = world_size
        self._deadline_s = deadline_s
        self._count = 0
        self.name_of: Callable[[int], str] = lambda rank: f"rank {rank}"
        self._patience_s = min(PATIENCE_S, deadline_s)
        with self._losing_the_store("connecting to the job's store"):
            self._store = PrefixStore(f"geo_accel/{_generations}", _own_connection(deadline_s))
        self._store.set_timeout(seconds(self._patience_s))

    def another(self) -> "ControlPlane":
        """A second one for another thread, whose messages do not meet this one's. Made at the same point by all."""
        second = ControlPlane(self._rank, self._world_size, self._deadline_s)
        second.name_of = self.name_of
        return second

    def gather(self, what: str, message: Any) -> list[Any]:
        """Every rank's `message`, by rank. SiteLostError names the ranks that did not arrive in time."""
        self._count += 1
        prefix = f"{self._count}"
        keys = [f"{prefix}/{rank}" for rank in range(self._world_size)]
        with self._losing_the_store(what):
            self._store.set(keys[self._rank], json.dumps(message))
            answers = [json.loads(answer) for answer in self._wait_for(what, keys)]
        if self._rank == 0:
            self._forget(self._count - 2)
        return answers

    @contextmanager
    def _losing_the_store(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        except (RuntimeError, ConnectionError) as error:
            if isinstance(error, SiteLostError):
                raise
            waited = time.monotonic() - start
            raise SiteLostError(
                f"{what}: lost {self.name_of(0)}, which holds the job's store, after {waited:.0f} s "
                f"({_first_line(error)})."
            ) from error

    def _wait_for(self, what: str, keys: list[str]) -> list[bytes]:
        """The values of `keys`, one by rank, as soon as all are there."""
        start = time.monotonic()
        try:
            return self._store.multi_get(keys)
        except RuntimeError:
            if time.monotonic() - start < 0.9 * self._patience_s:
                raise  # it has not waited: the store is gone
        while not self._store.check(keys):
            if time.monotonic() - start > self._deadline_s:
                late = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                raise SiteLostError(
                    f"{what}: waited {self._deadline_s:.0f} s for {', '.join(map(self.name_of, late))}; "
                    "check that every site runs the same command and can reach the others."
                )
            time.sleep(POLL_S)
        return self._store.multi_get(keys)

    def _forget(self, count: int) -> None:
        """Whoever is in gather n has read all of gather n - 2: every rank wrote n - 1 after that."""
        for rank in range(self._world_size):
            self._store.delete_key(f"{count}/{rank}")

    def broadcast(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make()` returns on rank 0, on every rank; its ValueError is raised on every rank too."""
        message = None
        if self._rank == 0:
            try:
                message = {"value": make()}
            except ValueError as error:
                message = {"error": str(error)}
        message = self.gather(what, message)[0]
        if "error" in message:
            raise ValueError(message["error"])
        return message["value"]


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
