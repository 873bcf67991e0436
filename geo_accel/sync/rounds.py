# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One round of one set of units: snapshot, exchange, agreement, application (DESIGN 3).

The training thread takes the snapshot and applies the result; everything between runs on one background thread.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter, process_time

import torch

from geo_accel.plan.averaging import Averaging, Outer
from geo_accel.plan.plan import Piece
from geo_accel.profile.trace import Trace
from geo_accel.sync.masters import Masters, Selection
from geo_accel.sync.outer import OuterStep
from geo_accel.sync.staging import Staging
from geo_accel.transport.errors import DamagedPayloadError
from geo_accel.transport.exchange import EXCHANGES, Scratch, Terms
from geo_accel.transport.gloo import GlooTransport

RESIDUAL_DECAY = 0.95
"""What a residual buffer's content counts when it joins the next round. With 1, overlap weighting makes it grow."""


@dataclass(slots=True, kw_only=True)
class Round:
    """A round in flight."""

    due: int
    """The step boundary at which it is applied."""
    replaces: bool
    """Whether the weights stand as in the snapshot and nothing is left unsaid, so that applying is setting."""
    future: Future
    selection: Selection
    host: torch.Tensor | None = field(default=None, repr=False)


class Rounds:
    """Starts and applies rounds over one rank's carried vector, and owns its anchor, velocity and residual."""

    def __init__(self, masters: Masters, transport: GlooTransport, trace: Trace) -> None:
        self.masters = masters
        self.outer = OuterStep(masters.size if transport.topology.carries else 0)
        self._transport = transport
        self._topology = transport.topology
        self._staging = Staging(masters.device)
        self._trace = trace
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="geo_accel")
        self._scratch = Scratch()
        self.anchor = torch.empty(0)
        self.residual: torch.Tensor | None = None
        """What was not sent, flat fp32 like the anchor, where a plan's residual is a buffer; 0 after a flush."""

    def reset_anchor(self) -> None:
        """Takes the current weights, which must be the same on every site, as the last agreement."""
        if not self._topology.carries:
            return
        anchor = torch.zeros(self.masters.size)
        whole = self.masters.select(self.masters.everything())
        self._staging.snapshot(lambda buffer: self.masters.read(whole, buffer), anchor)()
        self.anchor = anchor

    def start(
        self,
        pieces: tuple[Piece, ...],
        *,
        averaging: Averaging,
        outer: Outer,
        step: int,
        delay: int,
        slot: int | None = None,
    ) -> Round:
        """Training thread, at step `step`: snapshots `pieces` and queues their exchange.

        `delay` 0 promises that `apply` follows before the weights move. `slot` is the step of the plan that the round
        belongs to; None for a flush's, which is lossless and takes along what a residual buffer holds.
        """
        selection = self.masters.select(pieces)
        host, copied = None, None
        if self._topology.carries:
            host = self._staging.take(selection.length)
            copied = self._staging.snapshot(lambda buffer: self.masters.read(selection, buffer), host)
            if averaging.residual == "buffer" and self.residual is None:
                self.residual = torch.zeros(self.masters.size)
        replaces = delay == 0 and averaging.lossless
        details = {
            "step": step,
            "slot": slot,
            "codec": averaging.codec,
            "pieces": [[piece.unit, piece.part, piece.parts] for piece in pieces],
        }
        terms = Terms(averaging=averaging, scratch=self._scratch, seed=step)
        future = self._pool.submit(self._exchange, selection, host, copied, terms, outer, replaces, details)
        return Round(due=step + delay, replaces=replaces, future=future, selection=selection, host=host)

    def apply(self, running: Round) -> float:
        """Training thread: waits for the round and applies it. Returns the seconds waited: exposed time.

        The wait is bounded: every operation of the background thread has a deadline, whose error is raised here.
        """
        start = perf_counter()
        result = running.future.result()
        stop = perf_counter()
        (self.masters.assign if running.replaces else self.masters.add)(running.selection, result())
        if running.host is not None:
            self._staging.give(running.host)
        if stop - start > 1e-4:
            self._trace.add("wait", running.selection.names, start, stop)
        return stop - start

    def average_buffers(self, buffers: Sequence[tuple[str, torch.Tensor]]) -> None:
        """Sets floating-point buffers to their mean over sites; inside a site the first rank's count."""
        if buffers:
            self._pool.submit(self._average_buffers, [buffer for _, buffer in buffers]).result()

    def time_transfer(
        self, nbytes: int, senders: Collection[int] | None = None, receivers: Collection[int] | None = None
    ) -> tuple[float, float]:
        """Seconds until `nbytes` bytes have gone from every sender to every receiver among the peers, and this
        process's seconds on its cores for it.

        Ranks that are neither named as sender nor as receiver take no part; None names all. Nothing happens, in 0
        seconds, on a rank that takes no part, carries nothing or is alone.
        """
        return self.begin_transfer(nbytes, senders, receivers).result()

    def begin_transfer(
        self, nbytes: int, senders: Collection[int] | None = None, receivers: Collection[int] | None = None
    ) -> Future:
        """`time_transfer`, going on while the caller does something else; its result is the future's."""
        me, peers = self._topology.rank, self._transport.peers
        sending = set(peers if senders is None else senders).intersection(peers)
        receiving = set(peers if receivers is None else receivers).intersection(peers)
        others = (sending | receiving) - {me}
        if me not in sending | receiving or not others:
            others = set()

        def transfer() -> tuple[float, float]:
            if not others:
                return 0.0, 0.0
            empty = torch.zeros(1, dtype=torch.uint8)
            # Makes all start together.
            self._transport.swap(dict.fromkeys(others, empty), {peer: torch.empty_like(empty) for peer in others})
            payload = torch.zeros(nbytes, dtype=torch.uint8)
            sends = dict.fromkeys(receiving - {me}, payload) if me in sending else {}
            received = {peer: torch.empty_like(payload) for peer in sending - {me}} if me in receiving else {}
            start, busy = perf_counter(), process_time()
            self._transport.swap(sends, received)
            return perf_counter() - start, process_time() - busy

        return self._pool.submit(transfer)

    def in_background(self, work: Callable[[], object]) -> Future:
        """Runs `work` on the background thread, after the rounds that were started before."""
        return self._pool.submit(work)

    def close(self) -> None:
        """Lets go of the background thread; what is queued and has not begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _exchange(self, selection, host, copied, terms, outer, replaces, details):
        start = perf_counter()
        topology = self._topology
        row = None
        if topology.carries:
            copied()
            row = self._agree(selection, host, terms, outer, replaces)
        if self.masters.replicated and len(topology.site.ranks) > 1:
            result = torch.empty(topology.slices, selection.length)
            if topology.slices == 1 and row is not None:
                result[0].copy_(row)
            self._transport.share(result, row)
        else:
            result = row.view(1, -1)
        stop = perf_counter()
        self._trace.add("transfer", selection.names, start, stop, **details)
        return self._staging.upload(result)

    def _agree(self, selection, host, terms, outer, replaces) -> torch.Tensor:
        residual = self.residual
        try:
            agree(
                self._transport,
                terms,
                host,
                self.anchor,
                selection.ranges,
                lambda agreed, lo, hi: self.outer.step(outer, agreed, lo, hi),
                replaces=replaces,
                residual=residual,
            )
        except NotFiniteError as error:
            name = self.masters.unit_at(error.place)
            raise ValueError(
                f"{self._topology.site.name} (rank {self._topology.rank}): {name} holds a value that is not finite "
                "(NaN or infinite), so training has diverged there; it was not sent. Lower the learning rate or clip "
                "gradients, and go on from an earlier checkpoint."
            ) from None
        except DamagedPayloadError as error:
            raise DamagedPayloadError(f"{error} (Layers: {selection.names}.)") from None
        return host

    @torch.no_grad()
    def _average_buffers(self, buffers: list[torch.Tensor]) -> None:
        topology = self._topology
        flat = torch.cat([buffer.detach().float().cpu().view(-1) for buffer in buffers])
        if topology.carries and topology.local_index == 0:
            terms = Terms(averaging=Averaging(), scratch=self._scratch)
            for part in EXCHANGES["direct"](self._transport, terms, flat, lambda lo, hi: None):
                flat[part.lo : part.hi] = part.mean
        self._transport.broadcast_in_site(flat)
        for buffer, values in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))


class NotFiniteError(ValueError):
    """A value that is to be sent is NaN or infinite; `place` is its element of the anchor."""

    def __init__(self, place: int) -> None:
        super().__init__(f"element {place} is not finite")
        self.place = place


def agree(
    transport: GlooTransport,
    terms: Terms,
    host: torch.Tensor,
    anchor: torch.Tensor,
    ranges: Sequence[tuple[int, int]],
    outer: Callable[[torch.Tensor, int, int], torch.Tensor],
    *,
    replaces: bool,
    residual: torch.Tensor | None = None,
) -> None:
    """Background thread: one exchange of a snapshot and the new anchor (DESIGN 3).

    `host` is the snapshot, flat fp32, of the elements of `anchor` in `ranges`; in the end it holds what is added to
    the weights, or with `replaces` the agreed values that replace them. `outer(agreed, lo, hi)` is the change of
    anchor elements [lo, hi). `residual`, as long as the anchor, is what earlier rounds have not sent, if they kept it
    apart; it joins what is said. What is not sent this time stays in the weights, goes there, or is lost, as the
    averaging's rule says.

    Raises NotFiniteError before anything that is not finite is sent.
    """
    spans, offset = [], 0
    for lo, hi in ranges:
        spans.append((offset, offset + hi - lo, lo))
        offset += hi - lo
    rule, lossless = terms.averaging.residual, terms.averaging.lossless
    # With a residual, what is said is more than the progress since the last agreement, and both are needed.
    values = host if residual is None else terms.scratch("values", host.numel())
    decay = RESIDUAL_DECAY if rule == "buffer" and not lossless else 1.0

    def parts(lo: int, hi: int) -> Iterator[tuple[int, int, int, int]]:
        """Where [lo, hi) of the buffer lies: in the buffer and in the anchor."""
        for begin, end, place in spans:
            first, last = max(lo, begin), min(hi, end)
            if first < last:
                yield first, last, place + first - begin, place + last - begin

    def prepare(lo: int, hi: int) -> None:
        for first, last, start, stop in parts(lo, hi):
            part = host[first:last].sub_(anchor[start:stop])
            if residual is not None:
                part = torch.add(part, residual[start:stop], alpha=decay, out=values[first:last])
            # One pass over what is in the cache anyway; a sum can also overflow, so look closer before refusing.
            if not math.isfinite(part.sum()) and not (finite := part.isfinite()).all():
                raise NotFiniteError(start + int(finite.logical_not().nonzero()[0]))

    for part in EXCHANGES[terms.averaging.exchange](transport, terms, values, prepare):
        for first, last, start, stop in parts(part.lo, part.hi):
            inside = slice(first - part.lo, last - part.lo)
            change = outer(part.mean[inside], start, stop)
            anchor[start:stop].add_(change)
            progress, said = host[first:last], part.said[inside]
            waiting = None if residual is None else residual[start:stop]
            if replaces:
                progress.copy_(anchor[start:stop])
            elif rule == "weights":
                if waiting is not None:  # of an earlier plan with a buffer: what waits there goes into the weights
                    change = change + waiting
                torch.sub(change, said, out=progress)
            else:
                torch.sub(change, progress, out=progress)
            if waiting is not None:
                if rule == "buffer":
                    torch.sub(values[first:last], said, out=waiting)
                else:
                    waiting.zero_()
