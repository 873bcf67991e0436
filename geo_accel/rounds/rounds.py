# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One round of one set of units: snapshot, exchange, agreement, application (docs/how-it-works.md).

One background thread talks to the other sites. Which thread encodes and applies depends on where the weights are.
On a CPU the training thread reads and writes the weights anyway, and going through the network's format while they are
in its cache costs no more than a snapshot would. Elsewhere it takes a snapshot and applies the result, and everything
between runs on the background thread.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

import torch

from geo_accel.config.names import Residual
from geo_accel.config.parts import Outer
from geo_accel.masters import Masters, Selection
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.plan import Piece, Plan
from geo_accel.profile.trace import Trace
from geo_accel.rounds.agreement import NotFiniteError, Snapshot, Weights, agree
from geo_accel.rounds.exact_mean import Swap
from geo_accel.rounds.exchange import Scratch, Terms
from geo_accel.rounds.outer import OuterStep
from geo_accel.rounds.staging import Staging
from geo_accel.rounds.transfers import Transfers
from geo_accel.sites.inside import InsideSite
from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.errors import DamagedPayloadError
from geo_accel.transport.identity import Identity, Message


@dataclass(slots=True, kw_only=True)
class Round:
    """A round in flight."""

    due: int
    """The step boundary at which it is applied."""
    message: Message
    """What it is, and once it is over, what anybody wished with it."""
    replaces: bool
    """Whether the weights stand as in the snapshot and nothing is left unsaid, so that applying is setting."""
    future: Future
    """Of what the background thread does; with a snapshot, of what brings its outcome to the weights' device."""
    selection: Selection
    scratch: Scratch = field(repr=False)
    host: torch.Tensor | None = field(default=None, repr=False)
    """The snapshot."""
    agreement: Iterator[None] | None = field(default=None, repr=False)
    """Where the training thread encodes and applies, what is left of it."""


@dataclass(frozen=True, slots=True)
class InPlace:
    """The weights themselves, where rounds read and write them without a snapshot."""

    masters: Masters
    selection: Selection
    replaces: bool = False

    def read(self, lo: int, out: torch.Tensor) -> None:
        self.masters.read(self.selection, out, lo)

    def stretches(self, lo: int, hi: int) -> Iterable[tuple[int, torch.Tensor]]:
        return () if self.replaces else self.masters.stretches(self.selection, lo, hi)

    def write(self, lo: int, change: torch.Tensor) -> None:
        (self.masters.assign if self.replaces else self.masters.add)(self.selection, change.view(1, -1), lo)


def in_place(masters: Masters, topology: Topology, averaging: Averaging) -> bool:
    """Whether the training thread itself encodes and applies what this rank carries, without a snapshot.

    Not where other ranks of the site wait for the outcome, where encoding takes long (sparse codecs), or where what
    was read is needed later.
    """
    shared = masters.replicated and len(topology.site.ranks) > 1
    return (
        masters.device.type == "cpu" and not shared and not averaging.sparse and averaging.residual == Residual.WEIGHTS
    )


class Rounds:
    """Starts and applies rounds over one rank's carried vector, and owns its anchor, velocity and residual."""

    def __init__(self, masters: Masters, transport: Transport, inside: InsideSite, trace: Trace) -> None:
        self.masters = masters
        self.outer = OuterStep(masters.size if transport.topology.carries else 0)
        self._transport, self._inside = transport, inside
        transport.users.add(self)
        self._topology = transport.topology
        self._staging = Staging(masters.device)
        self._trace = trace
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="geo_accel")
        self.transfers = Transfers(transport, inside)
        """Measures the links: to be called `in_background`."""
        self._free: list[Scratch] = []
        self._plan = (0, 0)
        self._last: Identity | None = None
        self.anchor = torch.empty(0, dtype=torch.float32, device="cpu")
        self.residual: torch.Tensor | None = None
        """What was not sent, flat fp32 like the anchor, where a plan's residual is a buffer; 0 after a flush."""

    def reset_anchor(self) -> None:
        """Takes the current weights, which must be the same on every site, as the last agreement."""
        if self._topology.carries:
            self.anchor = torch.zeros(self.masters.size, dtype=torch.float32, device="cpu")
            self.take_anchor(self.masters.select(self.masters.everything()))

    def take_anchor(self, selection: Selection) -> list[torch.Tensor]:
        """The same of `selection`; returns the stretches of the anchor that it lies in, none on a rank that carries
        nothing."""
        if not self._topology.carries:
            return []
        stretches = [self.anchor[lo:hi] for lo, hi in selection.ranges]
        whole = (
            stretches[0] if len(stretches) == 1 else torch.zeros(selection.length, dtype=torch.float32, device="cpu")
        )
        self._staging.snapshot(lambda buffer: self.masters.read(selection, buffer), whole)()
        if len(stretches) > 1:
            for stretch, values in zip(stretches, whole.split([len(one) for one in stretches]), strict=True):
                stretch.copy_(values)
        return stretches

    def follow(self, plan: Plan, number: int) -> None:
        """From now on rounds are those of `plan`, the `number`th that was adopted: their messages say so."""
        self._plan = (zlib.crc32(plan.fingerprint.encode()), number)

    def start(
        self,
        pieces: tuple[Piece, ...],
        *,
        averaging: Averaging,
        outer: Outer,
        step: int,
        delay: int,
        slot: int | None = None,
        wishes: int = 0,
    ) -> Round:
        """Training thread, at step `step`: encodes `pieces`, or takes a snapshot of them, and queues their exchange.

        Raises ValueError, here or from `apply`, for a value that is not finite. `delay` 0 promises that `apply`
        follows before the weights move. `slot` is the step of the plan that the round belongs to; None for a flush's,
        which is lossless and takes along what a residual buffer holds. `wishes` are told with it, as bits.
        """
        selection, topology = self.masters.select(pieces), self._topology
        replaces = delay == 0 and averaging.lossless
        details = {
            "step": step,
            "slot": slot,
            "codec": averaging.codec,
            "pieces": [[piece.unit, piece.part, piece.parts] for piece in pieces],
        }
        if topology.carries and averaging.residual == Residual.BUFFER and self.residual is None:
            self.residual = torch.zeros(self.masters.size, dtype=torch.float32, device="cpu")
        # Rounds in flight need one each.
        scratch = self._free.pop() if self._free else Scratch()
        message = Message(self._identity("flush" if slot is None else "round", step), wishes)
        terms = Terms(averaging=averaging, scratch=scratch, message=message, seed=step)
        host, agreement = None, None
        if topology.carries and in_place(self.masters, topology, averaging):
            weights = InPlace(self.masters, selection, replaces)
            agreement = self._agree(selection, weights, terms, outer, replaces)
            next(agreement)
            future = self._pool.submit(self._talk, agreement, message, selection, details)
        else:
            taken = None
            if topology.carries:
                host = self._staging.take(selection.length)
                taken = host, self._staging.snapshot(lambda buffer: self.masters.read(selection, buffer), host)
            future = self._pool.submit(self._exchange, selection, taken, terms, outer, replaces, details)
        return Round(
            due=step + delay,
            message=message,
            replaces=replaces,
            future=future,
            selection=selection,
            scratch=scratch,
            host=host,
            agreement=agreement,
        )

    def apply(self, running: Round) -> float:
        """Training thread: waits for the round and applies it. Returns the seconds waited: exposed time.

        The wait is bounded: every operation of the background thread has a deadline, whose error is raised here.
        """
        start = perf_counter()
        result = running.future.result()
        stop = perf_counter()
        if running.agreement is not None:
            for _ in running.agreement:
                pass
        else:
            (self.masters.assign if running.replaces else self.masters.add)(running.selection, result())
        self.masters.written(running.selection)
        if running.host is not None:
            self._staging.give(running.host)
        self._free.append(running.scratch)
        if stop - start > 1e-4:
            self._trace.add("wait", running.selection.names, start, stop)
        return stop - start

    def beat(self, step: int, wishes: int) -> Future:
        """Training thread, while there is no plan at step `step`: tells `wishes`, and shows who is still there.

        Of the message that says what anybody wished. Errors are those of a round.
        """
        return self._pool.submit(self._beat, Message(self._identity("beat", step), wishes))

    def _beat(self, message: Message) -> Message:
        message.wishes = self._inside.any(message.wishes)
        others = [peer for peer in self._transport.peers if peer != self._topology.rank]
        if others:
            self._transport.swap(dict.fromkeys(others, torch.empty(0, dtype=torch.uint8, device="cpu")), {}, message)
        self._tell_the_site(message)
        return message

    def _tell_the_site(self, message: Message) -> None:
        """Ranks that carry nothing hear from their site's first what was wished."""
        if self._topology.slices < len(self._topology.site.ranks):
            wishes = torch.tensor([message.wishes], dtype=torch.int64, device="cpu")
            self._inside.broadcast(wishes)
            message.wishes = int(wishes)

    def _identity(self, kind: str, step: int) -> Identity:
        """Training thread: of the next message of its kind that the step begins."""
        last = self._last
        number = last.number + 1 if last is not None and (last.kind, last.step) == (kind, step) else 0
        plan, plan_number = self._plan
        self._last = Identity(kind=kind, step=step, number=number, plan=plan, plan_number=plan_number)
        return self._last

    def beside(self, work: Callable[[Swap], object], step: int) -> Future:
        """Runs `work(swap)` on the background thread: what a flush at `step` tells peers besides rounds.

        All first ranks of sites call it as often, whether they have anything to tell or not.
        """
        message = Message(self._identity("buffers", step))
        return self._pool.submit(work, lambda sends, receives: self._transport.swap(sends, receives, message))

    def in_background(self, work: Callable[..., object], *arguments: object) -> Future:
        """Runs `work(*arguments)` on the background thread, after the rounds that were started before."""
        return self._pool.submit(work, *arguments)

    def close(self, *, at_rest: bool = False) -> None:
        """Lets go of the background thread; what is queued and has not begun is dropped.

        `at_rest` promises that nothing is, on any rank: others may use the transport.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)
        if at_rest:
            self._transport.users.discard(self)

    def _talk(
        self, agreement: Iterator[None], message: Message, selection: Selection, details: Mapping[str, object]
    ) -> None:
        start = perf_counter()
        message.wishes = self._inside.any(message.wishes)
        next(agreement)
        self._trace.add("transfer", selection.names, start, perf_counter(), **details)

    def _exchange(
        self,
        selection: Selection,
        taken: tuple[torch.Tensor, Callable[[], None]] | None,
        terms: Terms,
        outer: Outer,
        replaces: bool,
        details: Mapping[str, object],
    ) -> Callable[[], torch.Tensor]:
        """`taken` is a snapshot, with what waits until it is one; None on a rank that carries nothing. Returns what
        brings the outcome to the weights' device."""
        start = perf_counter()
        topology = self._topology
        # Ranks of a site carry to other peers each: what one wishes, all of them have to tell.
        terms.message.wishes = self._inside.any(terms.message.wishes)
        row = None
        if taken is not None:
            row, copied = taken
            copied()
            for _ in self._agree(selection, Snapshot(row), terms, outer, replaces):
                pass
        if self.masters.replicated and len(topology.site.ranks) > 1:
            result = torch.empty(topology.slices, selection.length, dtype=torch.float32, device="cpu")
            if topology.slices == 1 and row is not None:
                result[0].copy_(row)
            self._inside.share(result, row)
            self._tell_the_site(terms.message)
        else:
            assert row is not None  # who carries nothing hears from its site
            result = row.view(1, -1)
        stop = perf_counter()
        self._trace.add("transfer", selection.names, start, stop, **details)
        return self._staging.upload(result)

    def _agree(
        self, selection: Selection, weights: Weights, terms: Terms, outer: Outer, replaces: bool
    ) -> Iterator[None]:
        """`agree`, with its errors in the user's words."""
        try:
            yield from agree(
                self._transport,
                terms,
                weights,
                self.anchor,
                selection.ranges,
                None if outer == Outer() else lambda agreed, lo, hi: self.outer.step(outer, agreed, lo, hi),
                replaces=replaces,
                residual=self.residual,
            )
        except NotFiniteError as error:
            name = self.masters.unit_at(error.place)
            raise ValueError(
                f"{self._topology.called(self._topology.rank)}: {name} holds a value that is not finite "
                "(NaN or infinite), so training has diverged there; it was not sent. Lower the learning rate or clip "
                "gradients, and go on from an earlier checkpoint."
            ) from None
        except DamagedPayloadError as error:
            raise DamagedPayloadError(f"{error} (Layers: {selection.names}.)") from None
