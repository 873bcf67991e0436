# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where the fp32 master weights live, and how a rank's share of them is read and written.

A rank *carries* slice `local_index` of every unit: its carried vector is those slices, unit after unit, in backward
order. Anchors, outer state and rounds live in that vector; the plan's pieces are ranges of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from geo_accel.plan.plan import Piece
from geo_accel.topology import Topology
from geo_accel.units import Unit


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of one parameter and where it lies in a round's buffer."""

    parameter: torch.nn.Parameter
    start: int
    stop: int
    offset: int

    @property
    def values(self) -> torch.Tensor:
        """The stretch itself, flat; writing to it writes the parameter."""
        return self.parameter.detach().view(-1)[self.start : self.stop]


class PlainMasters:
    """Masters that are the model's own parameters: fp32 models, and low-precision models without masters.

    For the latter a round computes in fp32 and rounds once when it writes; what rounding loses stays in `w - a` and
    is sent by a later round.
    """

    def __init__(self, units: Sequence[Unit], topology: Topology) -> None:
        """Raises ValueError for parameters on several devices or not laid out contiguously."""
        devices = {parameter.device for unit in units for _, parameter in unit.parameters}
        if len(devices) > 1:
            raise ValueError(
                f"the model's trainable parameters lie on {', '.join(sorted(map(str, devices)))}: one device per "
                "process is supported."
            )
        for unit in units:
            for name, parameter in unit.parameters:
                if not parameter.is_contiguous():
                    raise ValueError(f"parameter {name} is not contiguous in memory: call .contiguous() on it first.")
        self.device = devices.pop()
        self._units = units
        self._topology = topology
        self._lengths = [-(-unit.numel // topology.slices) for unit in units]
        self._starts = [sum(self._lengths[:i]) for i in range(len(units))]

    @property
    def carried(self) -> list[tuple[str, int]]:
        """Names of the units and elements that a rank carries of each."""
        return [(unit.name, length) for unit, length in zip(self._units, self._lengths, strict=True)]

    @property
    def size(self) -> int:
        """Length of the carried vector."""
        return sum(self._lengths)

    def unit_at(self, place: int) -> str:
        """The name of the unit that element `place` of the carried vector belongs to."""
        return next(
            unit.name for unit, start in reversed(list(zip(self._units, self._starts, strict=True))) if start <= place
        )

    def ranges(self, pieces: Sequence[Piece]) -> list[tuple[int, int]]:
        """The pieces as [lo, hi) ranges of the carried vector; neighbours are merged."""
        merged: list[tuple[int, int]] = []
        for unit, lo, hi in self._stretches(pieces):
            lo, hi = self._starts[unit] + lo, self._starts[unit] + hi
            if merged and merged[-1][1] == lo:
                merged[-1] = (merged[-1][0], hi)
            else:
                merged.append((lo, hi))
        return merged

    def runs(self, pieces: Sequence[Piece], slice_index: int) -> list[Run]:
        """Where slice `slice_index` of the pieces lies in the parameters, in the order of the round's buffer.

        The last slice of a unit may be short; its buffer is padded and the padding belongs to no parameter.
        """
        found, offset = [], 0
        for unit, lo, hi in self._stretches(pieces):
            first = slice_index * self._lengths[unit]  # of the slice, in elements of the whole unit
            start, stop = first + lo, min(first + hi, self._units[unit].numel)
            position = 0
            for _, parameter in self._units[unit].parameters:
                begin, end = max(start, position), min(stop, position + parameter.numel())
                if begin < end:
                    found.append(Run(parameter, begin - position, end - position, offset + begin - start))
                position += parameter.numel()
            offset += hi - lo
        return found

    def _stretches(self, pieces: Sequence[Piece]) -> list[tuple[int, int, int]]:
        """The pieces as (unit, lo, hi) in elements of a slice; neighbouring parts of a unit are merged."""
        merged: list[tuple[int, int, int]] = []
        for piece in pieces:
            lo, hi = piece.bounds(self._lengths[piece.unit])
            if merged and merged[-1][0] == piece.unit and merged[-1][2] == lo:
                merged[-1] = (piece.unit, merged[-1][1], hi)
            else:
                merged.append((piece.unit, lo, hi))
        return merged

    def all_runs(self, pieces: Sequence[Piece]) -> list[list[Run]]:
        """`runs` for every slice."""
        return [self.runs(pieces, i) for i in range(self._topology.slices)]


@torch.no_grad()
def gather(runs: Sequence[Run], out: torch.Tensor) -> None:
    """Copies the runs into the flat buffer `out` (fp32, on the parameters' device); padding becomes 0."""
    if sum(run.stop - run.start for run in runs) < out.numel():
        out.zero_()
    for run in runs:
        out[run.offset : run.offset + run.stop - run.start].copy_(run.values)


@torch.no_grad()
def add(slices: Sequence[Sequence[Run]], buffer: torch.Tensor) -> None:
    """Adds `buffer` (slices, n) to the parameters, in fp32."""
    for runs, row in zip(slices, buffer, strict=True):
        for run in runs:
            change = row[run.offset : run.offset + run.stop - run.start]
            values = run.values
            if values.dtype == torch.float32:
                values.add_(change)
            else:
                values.copy_(values.float().add_(change))


@torch.no_grad()
def assign(slices: Sequence[Sequence[Run]], buffer: torch.Tensor) -> None:
    """Sets the parameters to `buffer` (slices, n)."""
    for runs, row in zip(slices, buffer, strict=True):
        for run in runs:
            run.values.copy_(row[run.offset : run.offset + run.stop - run.start])
