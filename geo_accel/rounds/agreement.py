# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From one round's weights to the new anchor and what is added to the weights, as docs/how-it-works.md has it."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch

from geo_accel.config.names import Residual
from geo_accel.rounds.exchange import BY_NAME, Agreement, Terms
from geo_accel.transport.base import Transport
from geo_accel.wire.codec import Codec
from geo_accel.wire.kernels import settle
from geo_accel.wire.quantised import Quantised

RESIDUAL_DECAY = 0.95
"""What a residual buffer's content counts when it joins the next round. With 1, overlap weighting makes it grow."""

# Fewer values than this are gathered with their neighbours: a stretch of their own would cost more than copying them.
_WORTHWHILE = 2048


class NotFiniteError(ValueError):
    """A value that is to be sent is NaN or infinite; `place` is its element of the anchor."""

    def __init__(self, place: int) -> None:
        super().__init__(f"element {place} is not finite")
        self.place = place


Stretch = tuple[int, torch.Tensor]
"""Some of a buffer's elements, and the offset of the first."""
OuterChange = Callable[[torch.Tensor, int, int], torch.Tensor]
"""`outer(agreed, lo, hi)` is the change of anchor elements [lo, hi) for what was agreed."""


class Weights(Protocol):
    """The weights of one round's pieces, as one flat fp32 buffer that is seen part by part."""

    def read(self, lo: int, out: torch.Tensor) -> None:
        """Copies elements from `lo` on, as they are at the round's start, into the flat `out`."""

    def stretches(self, lo: int, hi: int) -> Iterable[Stretch]:
        """Those of the elements [lo, hi) that are flat fp32 on the CPU and may be added to where they are: such
        stretches, in order, with their offsets from `lo`."""

    def write(self, lo: int, change: torch.Tensor) -> None:
        """Takes what is added to the elements from `lo` on, or their new values where the round replaces them."""


class Snapshot:
    """A copy of the weights, flat fp32, in which the round's outcome takes their place."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def read(self, lo: int, out: torch.Tensor) -> None:
        out.copy_(self.values[lo : lo + out.numel()])

    def stretches(self, lo: int, hi: int) -> Iterable[Stretch]:
        return ()

    def write(self, lo: int, change: torch.Tensor) -> None:
        self.values[lo : lo + change.numel()].copy_(change)


def agree(
    transport: Transport,
    terms: Terms,
    weights: Weights,
    anchor: torch.Tensor,
    ranges: Sequence[tuple[int, int]],
    outer: OuterChange | None,
    *,
    replaces: bool,
    residual: torch.Tensor | None = None,
) -> Iterator[None]:
    """One round, in the three parts of an exchange: what this site says, sending and hearing, and its application.

    `weights` are the elements of `anchor` in `ranges`. With `replaces` the agreed values take their place, else
    something is added to them. `outer` is None where the anchor changes by what was agreed. `residual`, as long as the
    anchor, is what earlier rounds have not sent, if they kept it apart; it joins what is said. What is not sent this
    time stays in the weights, goes there, or is lost, as the averaging's rule says; only where it stays in the weights
    may these have moved before the last part.

    Raises NotFiniteError, in its first part, before anything that is not finite is sent.
    """
    books = _Books(terms, weights, anchor, ranges, outer, replaces=replaces, residual=residual)
    course = BY_NAME[terms.averaging.exchange](transport, terms, books.length, books.say)
    next(course)
    yield
    next(course)
    yield
    for part in course:
        assert part is not None  # after its first two parts an exchange yields agreements
        books.settle(part)


class _Books:
    """Weights, anchor and residual of one round, between which values are moved."""

    def __init__(
        self,
        terms: Terms,
        weights: Weights,
        anchor: torch.Tensor,
        ranges: Sequence[tuple[int, int]],
        outer: OuterChange | None,
        *,
        replaces: bool,
        residual: torch.Tensor | None,
    ) -> None:
        self._terms, self._weights, self._outer, self._replaces = terms, weights, outer, replaces
        self._anchor, self._residual = anchor, residual
        self._rule = terms.averaging.residual
        self._decay = RESIDUAL_DECAY if self._rule == Residual.BUFFER and not terms.averaging.lossless else 1.0
        self._spans: list[tuple[int, int, int]] = []
        self.length = 0
        for lo, hi in ranges:
            self._spans.append((self.length, self.length + hi - lo, lo))
            self.length += hi - lo

    def say(self, codec: Codec, lo: int, hi: int, out: torch.Tensor) -> None:
        """Encodes what is said of elements [lo, hi) into the payload `out`."""
        if codec.lossless:
            self._gather(lo, hi, out.view(torch.float32))
        elif isinstance(codec, Quantised):
            self._say_from_where_it_lies(codec, lo, hi, out)
        else:
            codec.encode(self._gathered(lo, hi), out)

    def _say_from_where_it_lies(self, codec: Quantised, lo: int, hi: int, out: torch.Tensor) -> None:
        """Whole blocks that lie together go straight into the payload, what is between them by way of a copy."""
        done = lo
        # What waits in a buffer joins on the way.
        stretches = self._weights.stretches(lo, hi) if self._residual is None else ()
        for at, values in stretches:
            first, last = -(-at // codec.block) * codec.block, (at + len(values)) // codec.block * codec.block
            if last - first < _WORTHWHILE:
                continue
            if done < lo + first:
                codec.encode_change(self._gathered(done, lo + first), None, out, done - lo)
            ((_, start, stop),) = self._parts(lo + first, lo + last)
            bad = codec.encode_change(values[first - at : last - at], self._anchor[start:stop], out, first)
            if bad is not None:
                raise NotFiniteError(start + bad)
            done = lo + last
        if done < hi:
            codec.encode_change(self._gathered(done, hi), None, out, done - lo)

    def settle(self, part: Agreement) -> None:
        """Moves the anchor, and hands over what the weights change by."""
        decoded = None
        for inside, start, stop in self._parts(part.lo, part.hi):
            waiting = None if self._residual is None else self._residual[start:stop]
            lo, anchor = part.lo + inside.start, self._anchor[start:stop]
            stretches = self._all_stretches(lo, stop - start) if waiting is None else None
            if stretches and part.coded is not None and self._outer is None:
                for at, values in stretches:
                    part.coded.settle(inside.start + at, anchor[at : at + len(values)], values)
                continue
            said, mean = decoded = decoded or part.decode()
            said, change = said[inside], mean[inside]
            if self._outer is not None:
                change = self._outer(change, start, stop)
            if stretches:
                self._settle_in_place(change, said, anchor, stretches)
                continue
            outcome = self._outcome(change, said, lo, start, stop, waiting)
            anchor.add_(change)
            self._weights.write(lo, anchor if self._replaces else outcome)

    def _all_stretches(self, lo: int, length: int) -> list[Stretch] | None:
        """The weights themselves from element `lo` on, where all that is agreed may be added to where it belongs."""
        if self._rule != Residual.WEIGHTS or self._replaces:
            return None
        stretches = list(self._weights.stretches(lo, lo + length))
        return stretches if sum(len(values) for _, values in stretches) == length else None

    def _settle_in_place(
        self, change: torch.Tensor, said: torch.Tensor, anchor: torch.Tensor, stretches: Sequence[Stretch]
    ) -> None:
        changes, ours, anchors = change.numpy(), said.numpy(), anchor.numpy()
        for at, values in stretches:
            here = slice(at, at + len(values))
            settle(changes[here], ours[here], anchors[here], values.numpy())

    def _outcome(
        self,
        change: torch.Tensor,
        said: torch.Tensor,
        lo: int,
        start: int,
        stop: int,
        waiting: torch.Tensor | None,
    ) -> torch.Tensor:
        """What is added to the weights; the residual becomes what it is after this round."""
        if self._rule == Residual.WEIGHTS:
            if waiting is not None:  # of an earlier plan with a buffer: what waits there goes into the weights
                said.sub_(waiting)
                waiting.zero_()
            return torch.sub(change, said, out=said)
        progress = self._terms.scratch("progress", stop - start)
        self._weights.read(lo, progress)
        progress.sub_(self._anchor[start:stop])
        if self._rule == Residual.BUFFER:
            assert waiting is not None  # who plans a buffer makes it
            torch.add(progress, waiting, alpha=self._decay, out=waiting).sub_(said)
        elif waiting is not None:
            waiting.zero_()
        return torch.sub(change, progress, out=progress)

    def _gathered(self, lo: int, hi: int) -> torch.Tensor:
        out = self._terms.scratch("gathered", hi - lo)
        self._gather(lo, hi, out)
        return out

    def _gather(self, lo: int, hi: int, out: torch.Tensor) -> None:
        """Copies what is to be said of elements [lo, hi): progress since the last agreement, and what waits."""
        self._weights.read(lo, out)
        for inside, start, stop in self._parts(lo, hi):
            part = out[inside].sub_(self._anchor[start:stop])
            if self._residual is not None:
                part.add_(self._residual[start:stop], alpha=self._decay)
            # One pass over what is in the cache anyway; a sum can also overflow, so look closer before refusing.
            if not math.isfinite(part.sum()) and not (finite := part.isfinite()).all():
                raise NotFiniteError(start + int(finite.logical_not().nonzero()[0]))

    def _parts(self, lo: int, hi: int) -> Iterator[tuple[slice, int, int]]:
        """Where elements [lo, hi) lie: from `lo` on, and in the anchor."""
        for begin, end, place in self._spans:
            first, last = max(lo, begin), min(hi, end)
            if first < last:
                yield slice(first - lo, last - lo), place + first - begin, place + last - begin
