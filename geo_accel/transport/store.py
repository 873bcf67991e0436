# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The control plane: small JSON messages through a key-value store, with deadlines that name the late.

A barrier or gather over a process group cannot say who is missing; a missing key can.
"""

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

from torch.distributed import PrefixStore, Store, distributed_c10d

from geo_accel.transport.errors import OutOfStepError, SiteLostError
from geo_accel.transport.waiting import FIRST_S, Waiting

# So long the store itself waits for the others, without looking again. Whoever is later is looked for, and named.
PATIENCE_S = FIRST_S - 1
_control_planes = 0


class KeyStore(Protocol):
    """Texts by key, which all ranks see. For one thread."""

    holder: str | None
    """Who keeps it, as errors call them; None for the first rank."""

    def set(self, key: str, text: str) -> None: ...

    def wait(self, keys: Sequence[str], timeout_s: float) -> list[str] | None:
        """The texts of `keys`, as soon as all are there; None where they are not after `timeout_s` seconds."""

    def has(self, key: str) -> bool: ...

    def delete(self, keys: Sequence[str]) -> None: ...


class JobStore:
    """The store that the job's launcher made, over a connection of its own.

    While a store waits, whoever shares its connection waits too.
    """

    holder = None

    def __init__(self, prefix: str, deadline_s: float) -> None:
        """`deadline_s` bounds connecting and every call (seconds). Raises RuntimeError where it is lost."""
        shared = default_store()
        usual = shared.timeout  # pyrefly: ignore[missing-attribute] (the stubs lack it)
        shared.set_timeout(seconds(deadline_s))  # of connecting too, and by default half an hour
        try:
            own = shared.clone()  # pyrefly: ignore[missing-attribute] (the stubs lack it)
        finally:
            shared.set_timeout(usual)
        self._store = PrefixStore(prefix, own)

    def set(self, key: str, text: str) -> None:
        self._store.set(key, text)

    def wait(self, keys: Sequence[str], timeout_s: float) -> list[str] | None:
        start = time.monotonic()
        self._store.set_timeout(seconds(timeout_s))
        try:
            return [text.decode() for text in self._store.multi_get(list(keys))]
        except RuntimeError:
            if time.monotonic() - start < 0.9 * timeout_s:
                raise  # it has not waited: the store is gone
            return None

    def has(self, key: str) -> bool:
        return self._store.check([key])

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._store.delete_key(key)


def default_store() -> Store:
    """The store that `init_process_group` made. torch has no public accessor; this is the only place that asks."""
    return distributed_c10d._get_default_store()


class ControlPlane:
    """Gathers of JSON objects over all ranks, in the same order on every rank. For one thread."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        deadline_s: float,
        open_store: Callable[[str], KeyStore] | None = None,
    ) -> None:
        """`open_store(prefix)` connects to the store for keys that begin so; by default the job's own."""
        global _control_planes
        _control_planes += 1  # every rank builds its control planes in the same order, so prefixes agree
        self._rank = rank
        self._world_size = world_size
        self._deadline_s = deadline_s
        self._count = 0
        self.name_of: Callable[[int], str] = lambda rank: f"rank {rank}"
        self._patience_s = min(PATIENCE_S, deadline_s)
        self._waiting = Waiting(lambda: deadline_s)
        self._open_store = open_store or (lambda prefix: JobStore(prefix, deadline_s))
        self._store: KeyStore | None = None
        with self._losing_the_store("connecting to the store"):
            self._store = self._open_store(f"geo_accel/{_control_planes}/")

    def another(self) -> "ControlPlane":
        """A second one for another thread, whose messages do not meet this one's. Made at the same point by all."""
        second = ControlPlane(self._rank, self._world_size, self._deadline_s, self._open_store)
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
            store = self._held
            store.set(keys[self._rank], json.dumps([what, message]))
            if self._rank == 0:
                told = [json.loads(text) for text in self._wait_for(what, keys, keys)]
                said = self._answer([what for what, _ in told], lambda: decide([message for _, message in told]))
                text = json.dumps(said)
                store.set(answer, text)
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
            holder = self._store.holder if self._store is not None else None
            holder = holder or f"{self.name_of(0)}, which holds the job's store,"
            raise SiteLostError(f"{what}: lost {holder} after {waited:.0f} s ({_first_line(error)}).") from error

    @property
    def _held(self) -> KeyStore:
        assert self._store is not None  # made with this
        return self._store

    def _wait_for(self, what: str, wanted: list[str], keys: list[str]) -> list[str]:
        """The texts of the keys `wanted`, as soon as all are there; `keys` tell by rank who has arrived."""
        start = time.monotonic()
        late: list[int] = []
        with self._waiting.over(what, lambda: self._names(late)):
            while (texts := self._held.wait(wanted, self._patience_s)) is None:
                late[:] = [rank for rank, key in enumerate(keys) if not self._held.has(key)]
                if time.monotonic() - start > self._deadline_s:
                    raise SiteLostError(
                        f"{what}: waited {self._deadline_s:.0f} s (resilience.patience_s) for "
                        f"{self._names(late)}; check that every site runs the same command and can reach the others."
                    )
            return texts

    def _names(self, ranks: list[int]) -> str:
        """Where all have arrived, rank 0 is still deciding."""
        return ", ".join(map(self.name_of, list(ranks) or [0]))

    def _forget(self, count: int) -> None:
        """What every rank has read: all have written for count + 2, so they have heard the answer to count + 1."""
        self._held.delete([f"{count}/{key}" for key in (*range(self._world_size), "answer")])


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
