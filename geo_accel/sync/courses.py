# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How a plan's rounds run through a step, by mode.

| mode | a round begins | it is applied |
|---|---|---|
| "stream" | at a step boundary | `delay` boundaries later |
| "blocking" | at a step boundary | at once |
| "backward" | when the last gradient of its units is ready | before the optimizer's step |
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from geo_accel.plan.plan import Piece, Plan
from geo_accel.sync.backward import BackwardHooks
from geo_accel.sync.in_flight import InFlight
from geo_accel.sync.life import Life
from geo_accel.transport.errors import SiteLostError
from geo_accel.units import Unit


class Course(ABC):
    """One plan's, from the step at which it begins on. Boundary n comes after step n."""

    def __init__(self, plan: Plan, in_flight: InFlight, begins: int) -> None:
        """`begins` is the step that runs the plan's first."""
        self.plan, self.begins = plan, begins
        self._in_flight = in_flight

    def slot(self, step: int) -> int:
        """Which of the plan's steps `step` is."""
        return (step - self.begins) % self.plan.period

    @abstractmethod
    def begins_anew(self, boundary: int) -> bool:
        """Whether the plan's first step comes next, so that another plan can begin in its place."""

    def begins_rounds(self, boundary: int) -> bool:
        """Whether rounds begin at this boundary."""
        return False

    def start_step(self, step: int) -> None:  # noqa: B027 (most have nothing to do)
        """`step` begins."""

    def end_step(self) -> None:  # noqa: B027
        """The optimizer has made its step, or has skipped it, and its boundary has not come yet."""

    def at_boundary(self, boundary: int) -> float:
        """Applies what is due here, then begins what the plan begins here; returns the seconds waited."""
        return 0.0

    def remove(self) -> None:  # noqa: B027
        """Another plan begins, or the engine ends."""


class NoPlan(Course):
    """Before there is a plan: nothing runs."""

    def __init__(self) -> None:
        self.begins = 1

    def begins_anew(self, boundary: int) -> bool:
        return False


class AtBoundaries(Course):
    """Modes "stream" and "blocking", which is streaming without delay."""

    def begins_anew(self, boundary: int) -> bool:
        return self.slot(boundary) == 0

    def begins_rounds(self, boundary: int) -> bool:
        return bool(self.plan.rounds[self.slot(boundary)])

    def at_boundary(self, boundary: int) -> float:
        waited = self._in_flight.apply_due(boundary)
        slot = self.slot(boundary)
        for pieces in self.plan.rounds[slot]:
            self._in_flight.start(self.plan, pieces, boundary, slot)
        return waited if self.plan.delay else waited + self._in_flight.apply_all(boundary)


class InBackward(Course):
    """Mode "backward"."""

    def __init__(
        self,
        plan: Plan,
        in_flight: InFlight,
        begins: int,
        *,
        units: Sequence[Unit],
        optimizer: torch.optim.Optimizer | None,
        is_last_micro_batch: Callable[[], bool],
        optimizer_in_backward: bool,
        life: Life,
        waited: Callable[[float], None],
    ) -> None:
        """`waited(seconds)` is told of waits inside the optimizer's step. For the rest see BackwardHooks."""
        super().__init__(plan, in_flight, begins)
        assert optimizer is not None  # which `require_backward_fits` asks for
        self._life, self._waited = life, waited
        self._step = begins
        self._ready: set[int] = set()
        self._started = 0
        self._hooks = BackwardHooks(
            units,
            optimizer,
            is_last_micro_batch=is_last_micro_batch,
            on_ready=self._unit_ready,
            before_update=self._before_update,
            in_backward=optimizer_in_backward,
        )

    def begins_anew(self, boundary: int) -> bool:
        return self.slot(boundary + 1) == 0

    def start_step(self, step: int) -> None:
        self._step = step
        self._hooks.begin_step()
        self._ready.clear()
        self._started = 0

    def end_step(self) -> None:
        self._finish()  # nothing is left, unless the optimizer's step was skipped

    def remove(self) -> None:
        self._hooks.remove()

    def _unit_ready(self, unit: int) -> None:
        """Inside backward: starts the rounds whose units are all ready, in the plan's order and no other.

        A round whose units become ready early waits for those before it in the plan, so that every rank's background
        thread meets the same rounds in the same order whatever the order of its hooks.
        """
        self._ready.add(unit)
        if self._life.lost is None:
            self._start(lambda pieces: all(piece.unit in self._ready for piece in pieces))

    def _before_update(self) -> None:
        """Inside the optimizer's step, where nobody expects a lost site: it is raised at the boundary that follows."""
        with suppress(SiteLostError):
            if self._life.lost is None:
                self._finish()

    def _finish(self) -> None:
        """Before the update: starts what no gradient has started, then waits for and applies all of the step's."""
        with self._life.losing_sites():
            self._start(lambda pieces: True)
            self._waited(self._in_flight.apply_all(self._step - 1))

    def _start(self, may_start: Callable[[tuple[Piece, ...]], bool]) -> None:
        slot = self.slot(self._step)
        rounds = self.plan.rounds[slot]
        while self._started < len(rounds) and may_start(rounds[self._started]):
            self._in_flight.start(self.plan, rounds[self._started], self._step, slot)
            self._started += 1
