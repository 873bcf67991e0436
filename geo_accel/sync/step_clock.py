# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How long training steps take, for the planner and for the trace. What is no training step is not timed."""

from time import perf_counter

import torch
from torch import nn

from geo_accel.plan.slowing import Step
from geo_accel.profile.layers import LayerTimer
from geo_accel.profile.trace import Trace
from geo_accel.report.figures import Figures
from geo_accel.sync.courses import Course
from geo_accel.sync.planning import Planning
from geo_accel.units import Unit


class StepClock:
    """One engine's. Not collective."""

    def __init__(
        self,
        model: nn.Module,
        units: list[Unit],
        optimizer: torch.optim.Optimizer | None,
        trace: Trace,
        planning: Planning,
        figures: Figures,
    ) -> None:
        self._trace, self._planning, self._figures = trace, planning, figures
        self._layers = LayerTimer(model, units, optimizer, trace.add) if trace.wanted else None
        self._began: float | None = None
        self._exposed_before = 0.0
        self._between_s, self._beside = 0.0, False

    def between(self, course: Course, boundary: int) -> None:
        """What `course` does for rounds at this boundary, before the next step begins."""
        start = perf_counter()
        waited = course.at_boundary(boundary)
        self._figures.waited(waited)
        self._between_s = perf_counter() - start - waited
        self._beside = course.begins_rounds(boundary)

    def start(self) -> None:
        """A step begins."""
        self._began, self._exposed_before = perf_counter(), self._figures.exposed_s
        self._planning.start_step()
        if self._layers is not None:
            self._layers.start_step()

    def drop(self) -> None:
        """What follows until the next step begins (evaluation, saving) is none."""
        self._began = None
        self._planning.drop_step()
        if self._layers is not None:
            self._layers.drop_step()

    def end(self, step: int, *, planned: bool) -> None:
        """Step `step` is over; with `planned`, a plan was running in it."""
        if self._began is None:
            return
        now = perf_counter()
        self._trace.add("step", f"step {step}", self._began, now)
        if self._layers is not None:
            self._layers.end_step()
        self._figures.waited(self._planning.crossed())
        if planned:
            seconds = now - self._began - (self._figures.exposed_s - self._exposed_before)
            self._planning.saw_step(Step(seconds=seconds, between_s=self._between_s, beside=self._beside))

    def flushed(self, start: float) -> None:
        """A flush that began at `start` (seconds of `perf_counter`) is over; evaluating or saving follows."""
        stop = perf_counter()
        self._trace.add("flush", "flush", start, stop)
        self._figures.flush_s += stop - start
        self.drop()

    def remove(self) -> None:
        """Takes the hooks away."""
        if self._layers is not None:
            self._layers.remove()
