# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Stands in for `Engine.wish` and `Engine.take_agreed` until the engine carries wishes in its rounds."""

from geo_accel.sync.engine import Engine


class GatheringMeeting:
    """An engine whose ranks tell one another their wishes at every step, by a gather of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._wishes, self._agreed = engine, set(), frozenset()

    def step(self) -> None:
        self._engine.step()
        told = self._engine.control.gather("wishes", sorted(self._wishes))
        self._wishes.clear()
        self._agreed = frozenset(what for theirs in told for what in theirs)

    def flush(self) -> None:
        self._engine.flush()

    def wish(self, what: str) -> None:
        self._wishes.add(what)

    def take_agreed(self) -> frozenset[str]:
        return self._agreed
