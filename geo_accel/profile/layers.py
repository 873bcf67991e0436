# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How long a model's units compute, seen from hooks while training goes on as usual.

Clocks are read where a unit's forward begins and ends and where its last gradient becomes ready: `perf_counter` on
CPU, CUDA events on accelerators, which are read after the fact, so that no layer waits for another.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from geo_accel.profile.device import device_name
from geo_accel.profile.profile import Profile, UnitProfile
from geo_accel.units import Unit
from geo_accel.version import __version__

WARMUP_STEPS = 2
WANTED_STEPS = 6
STEPS = WARMUP_STEPS + WANTED_STEPS

OnSpan = Callable[[str, str, float, float], None]
"""`on_span(track, name, start, stop)`, in seconds of `perf_counter`."""
Mark = Any
"""A moment as a clock marks it, which only that clock reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Computing:
    """What a rank has measured of its computing, in seconds."""

    units: tuple[UnitProfile, ...]
    """In the order in which their last gradients became ready; those that get none come last."""
    step_s: float
    after_s: float
    """From the last gradient to the end of the step."""
    micro_batches: int
    batch_shape: tuple[int, ...]
    """Of the first tensor that the model was given."""


def as_profile(computing: Computing, device: torch.device, **facts: object) -> Profile:
    """A profile without links; `facts` join what it says about where it was measured."""
    return Profile(
        units=computing.units,
        step_s=computing.step_s,
        after_s=computing.after_s,
        provenance={
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "batch_shape": list(computing.batch_shape),
            "micro_batches": computing.micro_batches,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "torch": torch.__version__,
            "geo_accel": __version__,
            "python": platform.python_version(),
            **facts,
        },
    )


@dataclass(slots=True)
class _Step:
    """Marks of one step; of several micro-batches the last one's."""

    begin: Mark
    micro_batches: int = 0
    forward: dict[str, list[Mark]] = field(default_factory=dict)
    """By unit: begin and end."""
    backward: Mark = None
    ready: dict[str, Mark] = field(default_factory=dict)
    """By unit, in the order of their last gradients."""
    update: list[Mark] = field(default_factory=list)
    end: Mark = None


class LayerTimer:
    """Watches a model's training steps between `start_step` and `remove`."""

    def __init__(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        optimizer: torch.optim.Optimizer | None = None,
        on_span: OnSpan | None = None,
        away_s: Callable[[], float] = float,
    ) -> None:
        """`on_span(track, name, start, stop)` is told each step's spans in seconds of `perf_counter`, for traces.

        `optimizer` is torch's own; without it the units' update times stay 0. `away_s` tells the seconds so far in
        which the process did not compute, but waited for others: the clock stands still meanwhile.
        """
        self._units = units
        self._on_span = on_span
        device = next(parameter for unit in units for _, parameter in unit.parameters).device
        self._clock = _CudaClock(device, away_s) if device.type == "cuda" else _HostClock(away_s)
        self._steps: list[_Step] = []
        self._now: _Step | None = None
        self._batch_shape: tuple[int, ...] = ()
        self._handles = [
            model.register_forward_pre_hook(self._micro_batch_begins, with_kwargs=True),
            model.register_forward_hook(self._micro_batch_ends),
        ]
        modules = dict(model.named_modules())
        for unit in units:
            module = modules.get(unit.name)
            if module is not None and module is not model:
                self._handles.append(module.register_forward_pre_hook(self._forward_begins(unit.name)))
                self._handles.append(module.register_forward_hook(self._forward_ends(unit.name)))
            for _, parameter in unit.parameters:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._gradient_ready(unit.name)))
        if optimizer is not None:
            self._handles.append(optimizer.register_step_pre_hook(self._update_mark))
            self._handles.append(optimizer.register_step_post_hook(self._update_mark))

    def start_step(self) -> None:
        """A step boundary: what follows belongs to a new step."""
        self._now = _Step(begin=self._clock.mark())

    def drop_step(self) -> None:
        """What has begun does not count."""
        self._now = None

    def end_step(self) -> None:
        """The boundary after a step that counts."""
        step = self._now
        if step is None:
            return
        step.end = self._clock.mark()
        if self._on_span is not None:
            self._tell(step, self._on_span)
        elif step.ready:
            self._steps.append(step)
        self._now = None

    @property
    def done(self) -> bool:
        """Whether enough steps were seen."""
        return len(self._steps) >= STEPS

    def remove(self) -> None:
        """Takes the hooks away; what was measured stays."""
        for handle in self._handles:
            handle.remove()

    def result(self, carried: Mapping[str, int]) -> Computing:
        """Medians over the steps after the warm-up.

        `carried` gives the elements that a rank carries of each unit.
        """
        steps = self._steps[WARMUP_STEPS:]
        last, between = steps[-1], self._clock.seconds
        order = [*last.ready, *(unit.name for unit in self._units if unit.name not in last.ready)]
        forward = {name: [] for name in order}
        backward = {name: [] for name in order}
        after, updates = [], []
        for step in steps:
            for name, (begin, end) in step.forward.items():
                forward[name].append(between(begin, end))
            earlier = step.backward
            for name, mark in step.ready.items():
                if earlier is not None:
                    backward[name].append(max(0.0, between(earlier, mark)))
                earlier = mark
            after.append(between(earlier, step.end))
            updates.append(sum(between(*marks) for marks in zip(step.update[::2], step.update[1::2], strict=False)))
        elements = {unit.name: unit.numel for unit in self._units}
        total = sum(elements.values())
        return Computing(
            units=tuple(
                UnitProfile(
                    name=name,
                    numel=carried[name],
                    forward_s=median(forward[name] or [0.0]),
                    backward_s=median(backward[name] or [0.0]),
                    update_s=median(updates) * elements[name] / total,
                )
                for name in order
            ),
            step_s=median(between(step.begin, step.end) for step in steps),
            after_s=median(after),
            micro_batches=last.micro_batches,
            batch_shape=self._batch_shape,
        )

    def _micro_batch_begins(self, module: nn.Module, inputs: tuple, named: dict) -> None:
        if self._now is not None and module.training:
            self._batch_shape = next((tuple(tensor.shape) for tensor in _tensors([*inputs, named])), ())
            self._now.micro_batches += 1
            self._now.forward, self._now.backward = {}, None

    def _micro_batch_ends(self, module: nn.Module, inputs: tuple, output: object) -> None:
        """What the model returns is the first to get a gradient: where forward and loss end, backward begins."""
        if self._now is None:
            return
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(self._backward_begins)

    def _backward_begins(self, gradient: torch.Tensor) -> None:
        if self._now is not None and self._now.backward is None:
            self._now.backward = self._clock.mark()

    def _forward_begins(self, name: str) -> Callable:
        def hook(*_: object) -> None:
            # Recomputation of checkpointed activations is part of backward.
            if self._now is not None and self._now.backward is None:
                self._now.forward[name] = [self._clock.mark(), None]

        return hook

    def _forward_ends(self, name: str) -> Callable:
        def hook(*_: object) -> None:
            if self._now is not None and self._now.backward is None and name in self._now.forward:
                self._now.forward[name][1] = self._clock.mark()

        return hook

    def _gradient_ready(self, name: str) -> Callable:
        def hook(_: torch.Tensor) -> None:
            if self._now is not None:
                self._now.ready.pop(name, None)
                self._now.ready[name] = self._clock.mark()

        return hook

    def _update_mark(self, *_: object) -> None:
        if self._now is not None:
            self._now.update.append(self._clock.mark())

    def _tell(self, step: _Step, on_span: OnSpan) -> None:
        """Spans of one step, in host time: its end is now."""
        now, between = perf_counter(), self._clock.seconds

        def span(track: str, name: str, begin: Mark, end: Mark) -> None:
            on_span(track, name, now - between(begin, step.end), now - between(end, step.end))

        for name, (begin, end) in step.forward.items():
            if end is not None:
                span("forward", name, begin, end)
        earlier = step.backward
        for name, mark in step.ready.items():
            if earlier is not None:
                span("backward", name, earlier, mark)
            earlier = mark
        if len(step.update) >= 2:
            span("update", "update", step.update[0], step.update[-1])


class _HostClock:
    def __init__(self, away_s: Callable[[], float]) -> None:
        self._away_s = away_s

    def mark(self) -> float:
        return perf_counter() - self._away_s()

    @staticmethod
    def seconds(begin: float, end: float) -> float:
        return end - begin


class _CudaClock:
    """Events on the stream that runs the layer."""

    def __init__(self, device: torch.device, away_s: Callable[[], float]) -> None:
        self._device, self._away_s = device, away_s

    def mark(self) -> tuple[torch.cuda.Event, float]:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event, self._away_s()

    @staticmethod
    def seconds(begin: tuple[torch.cuda.Event, float], end: tuple[torch.cuda.Event, float]) -> float:
        end[0].synchronize()
        return begin[0].elapsed_time(end[0]) * 1e-3 - (end[1] - begin[1])


def _tensors(output: object) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
