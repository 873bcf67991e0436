# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The control plane: small JSON messages through the job's key-value store, with deadlines that name the late.

A barrier or gather over a process group cannot say who is missing; a missing key can.
"""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, distributed_c10d

from geo_accel.transport.errors import OutOfStepError, SiteLostError
from geo_accel.transport.waiting import FIRST_S, Waiting

# So long the store itself waits for the others, without looking again. Whoever is later is looked for, and named.
PATIENCE_S = FIRST_S - 1
POLL_S = 0.2
_generations = 0


def default_store() -> Store:
    """The store that `init_process_group` made. torch has no public accessor; this is the only place that asks."""
    return distributed_c10d._get_default_store()


def _own_connection(deadline_s: float) -> Store:
    """The job's store over a connection of its own: while a store waits, whoever shares its connection waits too."""
    shared = default_store()
    usual = shared.timeout  # pyrefly: ignore[missing-attribute] (the stubs lack it)
    shared.set_timeout(seconds(deadline_s))  # of connecting too, and by default half an hour
    try:
        return shared.clone()  # pyrefly: ignore[missing-attribute] (the stubs lack it)
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
        self._waiting = Waiting(deadline_s)
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
        return self.consult(what, message, list)

    def broadcast(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make()` returns on rank 0, on every rank; its ValueError is raised on every rank too."""
        return self.consult(what, None, lambda _: make())

    def consult(self, what: str, message: Any, decide: Callable[[list[Any]], Any]) -> Any:
        """What `decide(messages)` returns on rank 0, given every rank's `message` by rank, on every rank.

        Two round trips to rank 0. Raises ValueError on every rank where `decide` does, SiteLostError as `gather` does.
        """
        self._count += 1
        keys = [f"{self._count}/{rank}" for rank in range(self._world_size)]
        answer = f"{self._count}/answer"
        with self._losing_the_store(what):
            self._store.set(keys[self._rank], json.dumps([what, message]))
            if self._rank == 0:
                told = [json.loads(text) for text in self._wait_for(what, keys, keys)]
                said = self._answer([what for what, _ in told], lambda: decide([message for _, message in told]))
                text = json.dumps(said)
                self._store.set(answer, text)
                self._forget(self._count - 2)
            else:
                (text,) = self._wait_for(what, [answer], keys)
        said = json.loads(text)
        if "apart" in said:
            raise OutOfStepError(said["apart"])
        if "error" in said:
            raise ValueError(said["error"])
        return said["value"]

    def _answer(self, doing: list[str], decide: Callable[[], Any]) -> dict[str, Any]:
        """What all ranks hear: what was decided, or that they are not all at the same point."""
        if len(set(doing)) > 1:
            odd = next(rank for rank, what in enumerate(doing) if what != doing[0])
            return {
                "apart": f"{self.name_of(0)} is {doing[0]} while {self.name_of(odd)} is {doing[odd]}: every rank has "
                "to make the same calls in the same order (step, flush, save, load)."
            }
        try:
            return {"value": decide()}
        except ValueError as error:
            return {"error": str(error)}

    @contextmanager
    def _losing_the_store(self, what: str) -> Generator[None]:
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

    def _wait_for(self, what: str, wanted: list[str], keys: list[str]) -> list[bytes]:
        """The values of the keys `wanted`, as soon as all are there; `keys` tell by rank who has arrived."""
        start = time.monotonic()
        late: list[int] = []
        with self._waiting.over(what, lambda: self._names(late)):
            try:
                return self._store.multi_get(wanted)
            except RuntimeError:
                if time.monotonic() - start < 0.9 * self._patience_s:
                    raise  # it has not waited: the store is gone
            while not self._store.check(wanted):
                late[:] = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                if time.monotonic() - start > self._deadline_s:
                    raise SiteLostError(
                        f"{what}: waited {self._deadline_s:.0f} s (resilience.round_timeout_s) for "
                        f"{self._names(late)}; check that every site runs the same command and can reach the others."
                    )
                time.sleep(POLL_S)
            return self._store.multi_get(wanted)

    def _names(self, ranks: list[int]) -> str:
        """Where all have arrived, rank 0 is still deciding."""
        return ", ".join(map(self.name_of, list(ranks) or [0]))

    def _forget(self, count: int) -> None:
        """What every rank has read: all have written for count + 2, so they have heard the answer to count + 1."""
        for key in (*range(self._world_size), "answer"):
            self._store.delete_key(f"{count}/{key}")


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
