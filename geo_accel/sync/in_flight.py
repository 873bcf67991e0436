# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The rounds that have begun and are not applied yet, in the order in which they began, and what is told with them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

from geo_accel.plan.plan import Piece, Plan
from geo_accel.rounds.rounds import Round, Rounds
from geo_accel.sync.wishes import Wishes
from geo_accel.transport.identity import Message


class InFlight:
    """One engine's, in mode "backward" of a step, else of some steps. Training thread.

    Rounds are applied in the order in which they began, which the plan and the step counter decide: on every rank the
    same, whatever arrives first.
    """

    def __init__(self, rounds: Rounds, wishes: Wishes) -> None:
        self._rounds, self._wishes = rounds, wishes
        self._running: deque[Round] = deque()
        self._beat: Future | None = None

    def __bool__(self) -> bool:
        return bool(self._running) or self._beat is not None

    @property
    def futures(self) -> Iterator[Future]:
        """Of what goes on in the background."""
        if self._beat is not None:
            yield self._beat
        yield from (running.future for running in self._running)

    def start(self, plan: Plan, pieces: tuple[Piece, ...], step: int, slot: int) -> None:
        """Begins a round of `plan` at `step`, the plan's step `slot`."""
        running = self._rounds.start(
            pieces,
            averaging=plan.averaging,
            outer=plan.outer,
            step=step,
            delay=plan.delay,
            slot=slot,
            wishes=self._wishes.told(),
        )
        self._running.append(running)

    def beat(self, step: int) -> None:
        """Tells wishes at `step`, where there is no plan whose rounds could."""
        self._beat = self._rounds.beat(step, self._wishes.told())

    def hear_beat(self, step: int) -> None:
        """Waits for the last one, at the boundary after `step` steps."""
        if self._beat is not None:
            beat, self._beat = self._beat, None
            self._heard(beat.result(), step)

    def apply_due(self, step: int) -> float:
        """Applies what is due at the boundary after `step` steps; returns the seconds waited."""
        waited = 0.0
        while self._running and self._running[0].due <= step:
            waited += self._apply_next(step)
        return waited

    def apply_all(self, step: int) -> float:
        """Finishes and applies everything; returns the seconds waited."""
        self.hear_beat(step)
        waited = 0.0
        while self._running:
            waited += self._apply_next(step)
        return waited

    def _apply_next(self, step: int) -> float:
        running = self._running.popleft()
        waited = self._rounds.apply(running)
        self._heard(running.message, step)
        return waited

    def _heard(self, message: Message, step: int) -> None:
        begun = message.identity.step
        self._wishes.heard(message.wishes, begun=begun, boundary=max(begun, step))
