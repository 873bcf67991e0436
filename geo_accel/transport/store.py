# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The control plane: small JSON messages through the job's key-value store, with deadlines that name the late.

A barrier or gather over a process group cannot say who is missing; a missing key can.
"""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, distributed_c10d

from geo_accel.transport.errors import SiteLostError

# Between looks at the store: most messages follow at once, and dozens are exchanged before a plan is made.
FIRST_POLL_S, POLL_S = 0.001, 0.05
_generations = 0


def default_store() -> Store:
    """The store that `init_process_group` made. torch has no public accessor; this is the only place that asks."""
    return distributed_c10d._get_default_store()


class ControlPlane:
    """Gathers of JSON objects over all ranks, in the same order on every rank."""

    def __init__(self, rank: int, world_size: int, deadline_s: float) -> None:
        global _generations
        _generations += 1  # every rank builds its control planes in the same order, so prefixes agree
        self._store = PrefixStore(f"geo_accel/{_generations}", default_store())
        self._rank = rank
        self._world_size = world_size
        self._deadline_s = deadline_s
        self._count = 0
        self.name_of: Callable[[int], str] = lambda rank: f"rank {rank}"

    def another(self) -> "ControlPlane":
        """A second one for another thread, whose messages do not meet this one's. Made at the same point by all."""
        second = ControlPlane(self._rank, self._world_size, self._deadline_s)
        second.name_of = self.name_of
        return second

    def gather(self, what: str, message: Any) -> list[Any]:
        """Every rank's `message`, by rank. SiteLostError names the ranks that did not arrive in time."""
        self._count += 1
        prefix = f"{self._count}"
        start = time.monotonic()
        try:
            self._store.set(f"{prefix}/{self._rank}", json.dumps(message))
            keys = [f"{prefix}/{rank}" for rank in range(self._world_size)]
            # Not the store's own wait, which would keep this rank's other threads from the store meanwhile.
            pause = FIRST_POLL_S
            while not self._store.check(keys):
                if time.monotonic() - start > self._deadline_s:
                    late = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                    raise SiteLostError(
                        f"{what}: waited {self._deadline_s:.0f} s for {', '.join(map(self.name_of, late))}; "
                        "check that every site runs the same command and can reach the others."
                    )
                time.sleep(pause)
                pause = min(1.5 * pause, POLL_S)
            answers = [json.loads(answer) for answer in self._store.multi_get(keys)]
        except (RuntimeError, ConnectionError) as error:
            if isinstance(error, SiteLostError):
                raise
            waited = time.monotonic() - start
            raise SiteLostError(
                f"{what}: lost {self.name_of(0)}, which holds the job's store, after {waited:.0f} s "
                f"({_first_line(error)})."
            ) from error
        if self._rank == 0:
            self._forget(self._count - 2)
        return answers

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
