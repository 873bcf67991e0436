# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One round of one set of units: snapshot, exchange, agreement, application (DESIGN 3).

The training thread takes the snapshot and applies the result; everything between runs on one background thread.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

import torch

from geo_accel.plan.plan import Piece
from geo_accel.sync.masters import PlainMasters, add, assign, gather
from geo_accel.sync.outer import Mean, OuterStep
from geo_accel.sync.staging import Staging
from geo_accel.sync.trace import Trace
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
        self, pieces: tuple[Piece, ...], *, codec: str, exchange: str, step: int, delay: int, outer: bool = True
    ) -> Round:
        """Training thread, at step boundary `step`: snapshots `pieces` and queues their exchange.

        `delay` 0 promises that `apply` follows before the weights move. Without `outer` the agreement is the mean.
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
            "planned": outer,
            "codec": codec,
            "pieces": [[piece.unit, piece.part, piece.parts] for piece in pieces],
        }
        rule = self.outer if outer else Mean()
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

    def time_transfer(self, nbytes: int) -> float:
        """Seconds that swapping `nbytes` bytes with every peer takes; 0 on a rank that carries nothing."""

        def transfer() -> float:
            others = [peer for peer in self._transport.peers if peer != self._topology.rank]
            seconds = 0.0
            for size in (1, nbytes):  # the first swap only makes all start the second together
                payload = torch.zeros(size, dtype=torch.uint8)
                start = perf_counter()
                self._transport.swap(
                    dict.fromkeys(others, payload), {peer: torch.empty_like(payload) for peer in others}
                )
                seconds = perf_counter() - start
            return seconds

        return self._pool.submit(transfer).result() if self._topology.carries else 0.0

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
        """The exchange and the new anchor; leaves in `host` what is added to (or replaces) the weights."""
        spans, offset = [], 0
        for lo, hi in layout.ranges:
            spans.append((slice(offset, offset + hi - lo), lo, hi))
            offset += hi - lo
        for span, lo, hi in spans:
            host[span].sub_(self.anchor[lo:hi])
        agreement = EXCHANGES[exchange](self._transport, get_codec(codec), host, self._scratch)
        for span, lo, hi in spans:
            change = outer.step(agreement.mean[span], lo, hi)
            self.anchor[lo:hi].add_(change)
            if replaces:
                host[span].copy_(self.anchor[lo:hi])
            else:
                torch.sub(change, agreement.said[span], out=host[span])
        return host

    @torch.no_grad()
    def _average_buffers(self, buffers: list[torch.Tensor]) -> None:
        topology = self._topology
        flat = torch.cat([buffer.detach().float().cpu().view(-1) for buffer in buffers])
        if topology.carries and topology.local_index == 0:
            flat = EXCHANGES["direct"](self._transport, get_codec("fp32"), flat, self._scratch).mean.clone()
        self._transport.broadcast_in_site(flat)
        for buffer, values in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where a set of pieces lies; computed once per set."""

    ranges: list
    slices: list
    length: int
    names: str
