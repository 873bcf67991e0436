# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One round of one set of units: snapshot, exchange, agreement, application (DESIGN 3).

The training thread takes the snapshot and applies the result; everything between runs on one background thread.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter, process_time

import torch

from geo_accel.plan.plan import Piece
from geo_accel.profile.trace import Trace
from geo_accel.sync.masters import PlainMasters, add, assign, gather
from geo_accel.sync.outer import Mean, OuterStep
from geo_accel.sync.staging import Staging
from geo_accel.transport.exchange import EXCHANGES, Scratch
from geo_accel.transport.gloo import GlooTransport
from geo_accel.wire.codec import get_codec


@dataclass(slots=True, kw_only=True)
class Round:
    """A round in flight."""

    pieces: tuple[Piece, ...]
    due: int
    """The step boundary at which it is applied."""
    replaces: bool
    """Whether the weights stand as in the snapshot and nothing is left unsaid, so that applying is setting."""
    future: Future
    names: str
    host: torch.Tensor | None = field(default=None, repr=False)


class Rounds:
    """Starts and applies rounds over one rank's carried vector, and owns its anchor."""

    def __init__(self, masters: PlainMasters, transport: GlooTransport, outer: OuterStep, trace: Trace) -> None:
        self.masters = masters
        self.outer = outer
        self._transport = transport
        self._topology = transport.topology
        self._staging = Staging(masters.device)
        self._trace = trace
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="geo_accel")
        self._layouts: dict[tuple[Piece, ...], _Layout] = {}
        self._scratch = Scratch()
        self.anchor = torch.empty(0)

    def reset_anchor(self) -> None:
        """Takes the current weights, which must be the same on every site, as the last agreement."""
        if not self._topology.carries:
            return
        anchor = torch.zeros(self.masters.size)
        pieces = tuple(Piece(unit) for unit in range(len(self.masters.carried)))
        runs = self.masters.runs(pieces, self._topology.local_index)
        self._staging.snapshot(lambda buffer: gather(runs, buffer), anchor)()
        self.anchor = anchor

    def start(
        self,
        pieces: tuple[Piece, ...],
        *,
        codec: str,
        exchange: str,
        step: int,
        delay: int,
        slot: int | None = None,
    ) -> Round:
        """Training thread, at step `step`: snapshots `pieces` and queues their exchange.

        `delay` 0 promises that `apply` follows before the weights move. `slot` is the step of the plan that the round
        belongs to; without one it is a flush's, whose agreement is the mean whatever the outer optimizer.
        """
        layout = self._layout(pieces)
        host, copied = None, None
        if self._topology.carries:
            mine = layout.slices[self._topology.local_index]
            host = self._staging.take(layout.length)
            copied = self._staging.snapshot(lambda buffer: gather(mine, buffer), host)
        replaces = delay == 0 and get_codec(codec).lossless
        details = {
            "step": step,
            "slot": slot,
            "codec": codec,
            "pieces": [[piece.unit, piece.part, piece.parts] for piece in pieces],
        }
        rule = Mean() if slot is None else self.outer
        future = self._pool.submit(self._exchange, layout, host, copied, codec, exchange, rule, replaces, details)
        return Round(pieces=pieces, due=step + delay, replaces=replaces, future=future, names=layout.names, host=host)

    def apply(self, running: Round) -> float:
        """Training thread: waits for the round and applies it. Returns the seconds waited: exposed time.

        The wait is bounded: every operation of the background thread has a deadline, whose error is raised here.
        """
        start = perf_counter()
        result = running.future.result()
        stop = perf_counter()
        (assign if running.replaces else add)(self._layout(running.pieces).slices, result())
        if running.host is not None:
            self._staging.give(running.host)
        if stop - start > 1e-4:
            self._trace.add("wait", running.names, start, stop)
        return stop - start

    def average_buffers(self, buffers: Sequence[tuple[str, torch.Tensor]]) -> None:
        """Sets floating-point buffers to their mean over sites; inside a site the first rank's count."""
        if buffers:
            self._pool.submit(self._average_buffers, [buffer for _, buffer in buffers]).result()

    def time_transfer(self, nbytes: int, partners: Sequence[int] | None = None) -> tuple[float, float]:
        """Seconds that swapping `nbytes` bytes with every peer takes, and this process's seconds on its cores for it.

        With `partners` only these peers swap, all at once and each with this rank. Nothing happens, in 0 seconds, on
        a rank that carries nothing or has no partner.
        """
        others = [peer for peer in self._transport.peers if peer != self._topology.rank]
        if partners is not None:
            others = [peer for peer in others if peer in partners]

        def transfer() -> tuple[float, float]:
            for size in (1, nbytes):  # the first swap only makes all start the second together
                payload = torch.zeros(size, dtype=torch.uint8)
                received = {peer: torch.empty_like(payload) for peer in others}
                start, busy = perf_counter(), process_time()
                self._transport.swap(dict.fromkeys(others, payload), received)
            return perf_counter() - start, process_time() - busy

        return self._pool.submit(transfer).result() if others else (0.0, 0.0)

    def in_background(self, work: Callable[[], object]) -> Future:
        """Runs `work` on the background thread, after the rounds that were started before."""
        return self._pool.submit(work)

    def close(self) -> None:
        """Lets go of the background thread; what is queued and has not begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _layout(self, pieces: tuple[Piece, ...]) -> "_Layout":
        layout = self._layouts.get(pieces)
        if layout is None:
            ranges = self.masters.ranges(pieces)
            carried = self.masters.carried
            first, last = carried[pieces[0].unit][0], carried[pieces[-1].unit][0]
            layout = self._layouts[pieces] = _Layout(
                ranges=ranges,
                slices=self.masters.all_runs(pieces),
                length=sum(hi - lo for lo, hi in ranges),
                names=first if first == last else f"{first} .. {last}",
            )
        return layout

    def _exchange(self, layout, host, copied, codec, exchange, outer, replaces, details):
        start = perf_counter()
        topology = self._topology
        row = None
        if topology.carries:
            copied()
            row = self._agree(layout, host, codec, exchange, outer, replaces)
        if len(topology.site.ranks) > 1:
            result = torch.empty(topology.slices, layout.length)
            if topology.slices == 1 and row is not None:
                result[0].copy_(row)
            self._transport.share(result, row)
        else:
            result = row.view(1, -1)
        stop = perf_counter()
        self._trace.add("transfer", layout.names, start, stop, **details)
        return self._staging.upload(result)

    def _agree(self, layout, host, codec, exchange, outer, replaces) -> torch.Tensor:
        agree(
            self._transport, exchange, codec, host, self.anchor, layout.ranges, outer, self._scratch, replaces=replaces
        )
        return host

    @torch.no_grad()
    def _average_buffers(self, buffers: list[torch.Tensor]) -> None:
        topology = self._topology
        flat = torch.cat([buffer.detach().float().cpu().view(-1) for buffer in buffers])
        if topology.carries and topology.local_index == 0:
            for part in EXCHANGES["direct"](
                self._transport, get_codec("fp32"), flat, self._scratch, lambda lo, hi: None
            ):
                flat[part.lo : part.hi] = part.mean
        self._transport.broadcast_in_site(flat)
        for buffer, values in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))


def agree(
    transport: GlooTransport,
    exchange: str,
    codec: str,
    host: torch.Tensor,
    anchor: torch.Tensor,
    ranges: Sequence[tuple[int, int]],
    outer: OuterStep,
    scratch: Scratch,
    *,
    replaces: bool,
) -> None:
    """Background thread: one exchange of a snapshot and the new anchor (DESIGN 3).

    `host` is the snapshot, flat fp32, of the elements of `anchor` in `ranges`; in the end it holds what is added to
    the weights, or with `replaces` the agreed values that replace them.
    """
    spans, offset = [], 0
    for lo, hi in ranges:
        spans.append((offset, offset + hi - lo, lo))
        offset += hi - lo

    def parts(lo: int, hi: int) -> Iterator[tuple[int, int, int, int]]:
        """Where [lo, hi) of the buffer lies: in the buffer and in the anchor."""
        for begin, end, place in spans:
            first, last = max(lo, begin), min(hi, end)
            if first < last:
                yield first, last, place + first - begin, place + last - begin

    def prepare(lo: int, hi: int) -> None:
        for first, last, start, stop in parts(lo, hi):
            host[first:last].sub_(anchor[start:stop])

    for part in EXCHANGES[exchange](transport, get_codec(codec), host, scratch, prepare):
        for first, last, start, stop in parts(part.lo, part.hi):
            inside = slice(first - part.lo, last - part.lo)
            change = outer.step(part.mean[inside], start, stop)
            anchor[start:stop].add_(change)
            if replaces:
                host[first:last].copy_(anchor[start:stop])
            else:
                torch.sub(change, part.said[inside], out=host[first:last])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where a set of pieces lies; computed once per set."""

    ranges: list
    slices: list
    length: int
    names: str
