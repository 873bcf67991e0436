# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where the fp32 master weights live, and how a rank's share of them is read and written.

A rank *carries* a share of every unit: its carried vector is those shares, unit after unit, in backward order.
Anchors, outer state and rounds live in that vector; the plan's pieces are ranges of it. Ranks that are peers carry
the same share, so their vectors have the same layout.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch

from geo_accel.plan.plan import Piece
from geo_accel.topology import Topology
from geo_accel.units import Unit, checksum, checksums


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of one parameter and where it lies in a round's buffer."""

    parameter: torch.nn.Parameter
    start: int
    stop: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Where a round's pieces lie; computed once per set of pieces."""

    ranges: tuple[tuple[int, int], ...]
    """[lo, hi) of the carried vector; neighbours are merged."""
    length: int
    """Elements of the round's buffer."""
    mine: tuple[Run, ...]
    """What this rank sends, in the order of the buffer. The buffer may be longer: padding belongs to no parameter."""
    rows: tuple[tuple[Run, ...], ...]
    """What a result changes on this rank, by its rows."""
    site: tuple[tuple[Run, ...], ...]
    """By the site's ranks, what each of them sends."""
    names: str
    """For people."""


class Masters(ABC):
    """One model's master weights as rounds see them."""

    replicated = True
    """Whether every rank of a site holds all weights, so that all need every rank's result."""

    def __init__(
        self, units: Sequence[Unit], topology: Topology, lengths: Sequence[int], device: torch.device
    ) -> None:
        """`lengths`: elements of each unit that this rank carries."""
        self.units = units
        self.device = device
        self._topology = topology
        self._lengths = lengths
        self._starts = [sum(lengths[:i]) for i in range(len(units))]
        self._selections: dict[tuple[Piece, ...], Selection] = {}

    @property
    def carried(self) -> list[tuple[str, int]]:
        """Names of the units and elements that a rank carries of each, the mean over a site's ranks, rounded up."""
        return [(unit.name, -(-unit.numel // self._topology.slices)) for unit in self.units]

    @property
    def size(self) -> int:
        """Length of this rank's carried vector."""
        return sum(self._lengths)

    def unit_at(self, place: int) -> str:
        """The name of the unit that element `place` of the carried vector belongs to."""
        return next(
            unit.name for unit, start in reversed(list(zip(self.units, self._starts, strict=True))) if start <= place
        )

    def everything(self) -> tuple[Piece, ...]:
        """The pieces that are the whole model."""
        return tuple(Piece(unit) for unit in range(len(self.units)))

    def select(self, pieces: Sequence[Piece]) -> Selection:
        """Where `pieces` lie."""
        pieces = tuple(pieces)
        selection = self._selections.get(pieces)
        if selection is None:
            ranges = self._ranges(pieces)
            site = tuple(tuple(self._runs(pieces, rank)) for rank in range(self._topology.slices))
            mine = site[self._topology.local_index] if self._topology.carries else ()
            first, last = self.units[pieces[0].unit].name, self.units[pieces[-1].unit].name
            selection = self._selections[pieces] = Selection(
                ranges=tuple(ranges),
                length=sum(hi - lo for lo, hi in ranges),
                mine=mine,
                rows=site if self.replicated else (mine,),
                site=site,
                names=first if first == last else f"{first} .. {last}",
            )
        return selection

    @torch.no_grad()
    def read(self, selection: Selection, out: torch.Tensor, lo: int = 0) -> None:
        """Copies what this rank sends, from element `lo` of the round's buffer on, into the flat `out` (fp32, on
        `device`); padding becomes 0."""
        runs = list(_within(selection.mine, lo, lo + out.numel()))
        if sum(run.stop - run.start for run in runs) < out.numel():
            out.zero_()
        for run in runs:
            out[run.offset : run.offset + run.stop - run.start].copy_(self._values(run))

    def stretches(self, selection: Selection, lo: int, hi: int) -> Iterator[tuple[int, torch.Tensor]]:
        """The masters themselves of what this rank sends of [lo, hi) of the round's buffer, flat, each with its offset
        from `lo`; only those that are fp32."""
        for run in _within(selection.mine, lo, hi):
            values = self._values(run)
            if values.dtype == torch.float32:
                yield run.offset, values

    @torch.no_grad()
    def add(self, selection: Selection, buffer: torch.Tensor, lo: int = 0) -> None:
        """Adds `buffer` (rows, n), elements `lo` to `lo` + n of a round's, to the weights, in fp32.

        `written` has to follow, once for all of a selection.
        """
        for values, change in self._beside(selection, buffer, lo):
            if values.dtype == torch.float32:
                values.add_(change)
            else:
                values.copy_(values.float().add_(change))

    @torch.no_grad()
    def assign(self, selection: Selection, buffer: torch.Tensor, lo: int = 0) -> None:
        """Sets the weights to `buffer`, as `add` adds it."""
        for values, new in self._beside(selection, buffer, lo):
            values.copy_(new)

    def _beside(
        self, selection: Selection, buffer: torch.Tensor, lo: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Stretches of the weights, each with its part of `buffer`."""
        for runs, row in zip(selection.rows, buffer, strict=True):
            for run in _within(runs, lo, lo + row.numel()):
                yield self._values(run), row[run.offset : run.offset + run.stop - run.start]

    @abstractmethod
    def written(self, selection: Selection) -> None:
        """The masters of `selection.rows` have changed: makes whatever is computed with follow."""

    @abstractmethod
    def checksums(self) -> dict[str, int]:
        """CRC-32 by unit of what this rank holds; the same on all peers whose weights are."""

    @abstractmethod
    def _values(self, run: Run) -> torch.Tensor:
        """The stretch itself, flat; writing to it writes the master."""

    @abstractmethod
    def _runs(self, pieces: Sequence[Piece], rank: int) -> list[Run]:
        """What rank `rank` of a site carries of `pieces`, in the order of its buffer."""

    def _ranges(self, pieces: Sequence[Piece]) -> list[tuple[int, int]]:
        merged: list[tuple[int, int]] = []
        for unit, lo, hi in stretches(pieces, self._lengths):
            lo, hi = self._starts[unit] + lo, self._starts[unit] + hi
            if merged and merged[-1][1] == lo:
                merged[-1] = (merged[-1][0], hi)
            else:
                merged.append((lo, hi))
        return merged


class PlainMasters(Masters):
    """Masters that are the model's own parameters: fp32 models, and low-precision models without masters.

    For the latter a round computes in fp32 and rounds once when it writes; what rounding loses stays in `w - a` and
    is sent by a later round. With as many ranks on every site rank j carries slice j of every unit.
    """

    def __init__(self, units: Sequence[Unit], topology: Topology) -> None:
        """Raises ValueError for parameters on several devices or not laid out contiguously."""
        device = one_device(parameter for unit in units for _, parameter in unit.parameters)
        for unit in units:
            for name, parameter in unit.parameters:
                if not parameter.is_contiguous():
                    raise ValueError(f"parameter {name} is not contiguous in memory: call .contiguous() on it first.")
        super().__init__(units, topology, [-(-unit.numel // topology.slices) for unit in units], device)

    def checksums(self) -> dict[str, int]:
        return checksums(self.units)

    def _values(self, run: Run) -> torch.Tensor:
        return run.parameter.detach().view(-1)[run.start : run.stop]

    def written(self, selection: Selection) -> None:
        """Nothing: the masters are what is computed with."""

    def _runs(self, pieces: Sequence[Piece], rank: int) -> list[Run]:
        """The last slice of a unit may be short; its buffer is padded."""
        found, offset = [], 0
        for unit, lo, hi in stretches(pieces, self._lengths):
            first = rank * self._lengths[unit]  # of the slice, in elements of the whole unit
            start, stop = first + lo, min(first + hi, self.units[unit].numel)
            position = 0
            for _, parameter in self.units[unit].parameters:
                begin, end = max(start, position), min(stop, position + parameter.numel())
                if begin < end:
                    found.append(Run(parameter, begin - position, end - position, offset + begin - start))
                position += parameter.numel()
            offset += hi - lo
        return found


class CopiedMasters(PlainMasters):
    """fp32 masters beside a model in low precision, whole on every rank: DeepSpeed's without ZeRO."""

    def __init__(
        self, units: Sequence[Unit], topology: Topology, masters: Mapping[torch.nn.Parameter, torch.Tensor]
    ) -> None:
        """`masters`: of every trainable parameter, its master: fp32, as many elements in the same order."""
        super().__init__(units, topology)
        self._masters = masters
        self.device = one_device(masters.values())

    def _values(self, run: Run) -> torch.Tensor:
        return self._masters[run.parameter].detach().view(-1)[run.start : run.stop]

    def checksums(self) -> dict[str, int]:
        return {
            unit.name: checksum(self._masters[parameter].detach() for _, parameter in unit.parameters)
            for unit in self.units
        }

    def written(self, selection: Selection) -> None:
        for runs in selection.rows:
            for run in runs:
                super()._values(run).copy_(self._values(run))


@dataclass(frozen=True, slots=True)
class Shard:
    """The elements [start, stop) of a parameter whose master one rank of a site holds."""

    start: int
    stop: int


class ShardedMasters(Masters):
    """fp32 masters of which every rank of a site holds a share: ZeRO. Each rank carries its own to its peers.

    Every site has to be sharded alike, which sites of equal sizes are.
    """

    replicated = False

    def __init__(
        self,
        units: Sequence[Unit],
        topology: Topology,
        shards: Sequence[Mapping[torch.nn.Parameter, Shard]],
        masters: Mapping[torch.nn.Parameter, torch.Tensor],
        publish: Callable[[Selection, Callable[[Run], torch.Tensor]], None],
    ) -> None:
        """`shards`: by the site's ranks, what each holds. `masters`: this rank's, fp32, flat, as long as its shards.

        `publish(selection, values)` makes what the site's ranks compute with follow the masters of `selection.site`;
        it may be collective inside the site. `values(run)` is the master of one of `selection.mine`.
        """
        mine = shards[topology.local_index]
        assert all(masters[parameter].numel() == shard.stop - shard.start for parameter, shard in mine.items())
        # A rank without any share, which small models on many ranks have, writes nothing.
        device = one_device(masters.values()) if masters else torch.device("cpu")
        self._shards = shards
        self._masters = masters
        self._publish = publish
        super().__init__(units, topology, self._lengths_of(units, topology.local_index), device)

    def checksums(self) -> dict[str, int]:
        return {
            unit.name: checksum(
                self._masters[parameter].detach() for _, parameter in unit.parameters if parameter in self._masters
            )
            for unit in self.units
        }

    def _lengths_of(self, units: Sequence[Unit], rank: int) -> list[int]:
        held = self._shards[rank]
        return [
            sum(held[parameter].stop - held[parameter].start for _, parameter in unit.parameters if parameter in held)
            for unit in units
        ]

    def _values(self, run: Run) -> torch.Tensor:
        begin = self._shards[self._topology.local_index][run.parameter].start
        return self._masters[run.parameter].detach()[run.start - begin : run.stop - begin]

    def _runs(self, pieces: Sequence[Piece], rank: int) -> list[Run]:
        found, offset, held = [], 0, self._shards[rank]
        for unit, lo, hi in stretches(pieces, self._lengths_of(self.units, rank)):
            position = 0
            for _, parameter in self.units[unit].parameters:
                if parameter not in held:
                    continue
                shard = held[parameter]
                end = position + shard.stop - shard.start
                first, last = max(lo, position), min(hi, end)
                if first < last:
                    inside = shard.start - position
                    found.append(Run(parameter, inside + first, inside + last, offset + first - lo))
                position = end
            offset += hi - lo
        return found

    def written(self, selection: Selection) -> None:
        self._publish(selection, self._values)


def _within(runs: Sequence[Run], lo: int, hi: int) -> Iterator[Run]:
    """What of `runs`, in the order of their offsets, lies in [lo, hi) of the buffer, with offsets from `lo` on."""
    for run in runs[max(0, bisect_right(runs, lo, key=attrgetter("offset")) - 1) :]:
        if run.offset >= hi:
            return
        first, last = max(run.offset, lo), min(run.offset + run.stop - run.start, hi)
        if first < last:
            yield Run(run.parameter, run.start + first - run.offset, run.start + last - run.offset, first - lo)


def stretches(pieces: Sequence[Piece], lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """The pieces as (unit, lo, hi) in elements of a rank's share; neighbouring parts of a unit are merged."""
    merged: list[tuple[int, int, int]] = []
    for piece in pieces:
        lo, hi = piece.bounds(lengths[piece.unit])
        if merged and merged[-1][0] == piece.unit and merged[-1][2] == lo:
            merged[-1] = (piece.unit, merged[-1][1], hi)
        else:
            merged.append((piece.unit, lo, hi))
    return merged


def one_device(tensors: Iterable[torch.Tensor]) -> torch.device:
    """The device of all `tensors`. Raises ValueError where there are several."""
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(
            f"the model's trainable parameters lie on {', '.join(sorted(map(str, devices)))}: one device per "
            "process is supported."
        )
    return devices.pop()
