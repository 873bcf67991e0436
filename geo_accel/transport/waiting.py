# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Whoever waits says for whom: after ten seconds, then every minute."""

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

logger = logging.getLogger("geo_accel")

FIRST_S, AGAIN_S = 10.0, 60.0
_LOOK_S = 1.0
_IDLE_LOOKS = 30


def is_due(waited: float, said: float | None) -> bool:
    """Whether it is time to say so, `waited` seconds after the wait began, when it was last said `said` after it."""
    return waited >= FIRST_S if said is None else waited - said >= AGAIN_S


class Waiting:
    """One thread's waits, one after the other.

    A thread of its own looks once a second, so that a wait costs next to nothing; it ends where nobody waits for long.
    """

    def __init__(self, limit_s: Callable[[], float]) -> None:
        """`limit_s()`: after how many seconds a wait ends with an error, for the message."""
        self._limit_s = limit_s
        self._current: tuple[float, str, Callable[[], str]] | None = None
        self._lock = threading.Lock()
        self._looking = False

    @contextmanager
    def over(self, what: str, whom: Callable[[], str]) -> Generator[None]:
        """Inside the block somebody waits in `what` for those whom `whom()`, called on another thread, names."""
        with self._lock:
            self._current = (time.monotonic(), what, whom)
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="geo_accel waiting", daemon=True).start()
        try:
            yield
        finally:
            self._current = None

    def _look(self) -> None:
        begun, said, idle = None, None, 0
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                current = self._current
                idle = idle + 1 if current is None else 0
                if idle > _IDLE_LOOKS:
                    self._looking = False
                    return
            if current is None:
                continue
            start, what, whom = current
            if start != begun:
                begun, said = start, None
            waited = time.monotonic() - start
            if is_due(waited, said):
                said = waited
                logger.warning(
                    "%s: has been waiting for %s for %.0f s; after %g s this ends with an error "
                    "(resilience.patience_s).",
                    what,
                    whom(),
                    waited,
                    self._limit_s(),
                )
