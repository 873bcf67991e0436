# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A flush: one exact average, after which all sites hold the same bits in everything that a model's state holds."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import nn

from geo_accel.config.parts import Outer
from geo_accel.masters import Masters
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.cost import exchange_for
from geo_accel.plan.plan import Piece
from geo_accel.rounds import exact_mean
from geo_accel.rounds.rounds import Round, Rounds
from geo_accel.sites.inside import InsideSite
from geo_accel.sync.comparison import compare, first_difference, quick_checksum
from geo_accel.sync.eval_form import EvalForms
from geo_accel.sync.rest import Entry, rest_of
from geo_accel.transport.base import Transport
from geo_accel.transport.store import ControlPlane
from geo_accel.units import checksum

logger = logging.getLogger("geo_accel")

# Elements per round of a flush, two of which are under way: enough to fill any link, little enough that staging stays
# small and that little is encoded before the first bytes leave.
FLUSH_ELEMENTS = 4 * 1024 * 1024


class Flush:
    """Makes one model the same on all sites, whatever its plan's codec.

    Weights are averaged by rounds. Of all else in the model's state dict, and of what an optimizer computes the form
    for use from, what differs between sites is averaged or taken from the first site. That takes one message of some
    bytes where nothing differs.
    """

    def __init__(
        self,
        model: nn.Module,
        masters: Masters,
        rounds: Rounds,
        transport: Transport,
        inside: InsideSite,
        control: ControlPlane,
        optimizers: Sequence[torch.optim.Optimizer | None],
    ) -> None:
        """Raises ValueError for one of the model's `optimizers` whose form for use sites could not agree on."""
        self._model = model
        self._masters = masters
        self._rounds = rounds
        self._transport, self._inside = transport, inside
        self._topology = transport.topology
        self._control = control
        self._eval_forms = EvalForms(optimizers, masters.units)
        self._told: set[str] = set()

    def in_training_form(self) -> AbstractContextManager[None]:
        """A block in which the weights are as rounds know them, whichever form of them is wanted for use."""
        return self._eval_forms.in_training_form()

    def run(self, step: int, coefficients: Sequence[float]) -> None:
        """Training thread, at step boundary `step`, in training form and with nothing in flight. Collective.

        `coefficients` are the sites' weights in the mean; empty where all count alike. Raises as rounds do, and
        ValueError, on every rank alike, where sites still differ: nothing that differs is ever saved or evaluated.
        """
        exact = Averaging(exchange=exchange_for(len(self._topology.sites)), coefficients=tuple(coefficients))
        sums: list[int] = []
        rest: list[tuple[Entry, int]] | None = None
        running: Round | None = None
        applied: Round | None = None
        for pieces in [*round_pieces([length for _, length in self._masters.carried]), None, None]:
            following = None
            if pieces is not None:
                following = self._rounds.start(pieces, averaging=exact, outer=Outer(), step=step, delay=0)
            # While one round crosses the link, the next one is encoded and those before are looked at and applied.
            if applied is not None:
                # Low-precision parameters round what they are given: the anchor is what they hold.
                sums += map(quick_checksum, self._rounds.take_anchor(applied.selection))
            if pieces is None and rest is None:
                entries = rest_of(self._model, self._masters.units) + self._eval_forms.entries()
                rest = [(entry, entry.fingerprint()) for entry in entries]
            if running is not None:
                self._rounds.apply(running)
            running, applied = following, running
        weights = checksum([torch.tensor(sums, dtype=torch.int64, device="cpu")])
        assert rest is not None  # looked at beside the last rounds
        self._agree_on_the_rest(step, tuple(coefficients), weights, rest)

    def _agree_on_the_rest(
        self, step: int, coefficients: tuple[float, ...], weights: int, rest: Sequence[tuple[Entry, int]]
    ) -> None:
        """`weights` is a checksum of those that this rank carries; `rest` is what it holds besides, with prints."""
        entries, prints = [entry for entry, _ in rest], [print_ for _, print_ in rest]
        verdict = self._rounds.beside(
            lambda swap: compare(self._transport, self._inside, swap, entries, prints, weights), step
        ).result()
        if verdict.weights:
            named = [named for unit in self._masters.units for named in unit.parameters]
            held = {name: checksum([parameter.detach()]) for name, parameter in named}
            self._refuse("the weights", held | self._masters.checksums())
        if verdict.kinds:
            self._refuse("names, shapes or types", {entry.name: entry.shape for entry in entries})
        means, firsts, own = [], [], []
        for entry, differs, lacking in zip(entries, verdict.odd, verdict.lacking, strict=True):
            if lacking and entry.forget is not None:
                entry.forget()
            elif differs and entry.fixed:
                self._warn_of(entry)
            elif differs:
                (means if entry.averaged else firsts).extend(entry.tensors)
            elif entry.is_buffer:  # the same on first ranks, but perhaps not inside a site
                own.extend(entry.tensors)
        peers, me = self._transport.peers, self._topology.rank
        self._set(means, step, lambda swap, values: exact_mean.mean(swap, peers, me, values, coefficients))
        self._set(firsts, step, lambda swap, values: exact_mean.first(swap, peers, me, values))
        self._set(own, step, None)

    @torch.no_grad()
    def _set(
        self,
        tensors: Sequence[torch.Tensor],
        step: int,
        agree: Callable[[exact_mean.Swap, torch.Tensor], None] | None,
    ) -> None:
        """Sets `tensors` to what the sites' first ranks `agree` on; inside a site the first rank's count."""
        if agree is None and len(self._topology.site.ranks) == 1:
            return
        real = [torch.view_as_real(t.detach()) if t.is_complex() else t.detach() for t in tensors]
        flat = [tensor.contiguous() for tensor in real]

        def talk(values: torch.Tensor, swap: exact_mean.Swap | None = None) -> None:
            if agree is not None and swap is not None and self._topology.local_index == 0:
                agree(swap, values)
            self._inside.broadcast(values)

        for stretches in exact_mean.chunks(flat):
            values = torch.cat([stretch.cpu() for stretch in stretches])
            work = partial(talk, values)
            (self._rounds.beside(work, step) if agree is not None else self._rounds.in_background(work)).result()
            for stretch, new in zip(stretches, values.split([s.numel() for s in stretches]), strict=True):
                stretch.copy_(new)
        for tensor, new in zip(real, flat, strict=True):
            if not tensor.is_contiguous():
                tensor.copy_(new)

    def _refuse(self, what: str, held: dict) -> None:
        """Collective, where a comparison has said that `held` differs between ranks that should hold the same."""
        answers = self._control.gather("comparing what sites hold after a flush", held)
        topology = self._topology
        for i in range(topology.slices):
            group = topology.peer_group(i)
            for rank in group[1:]:
                if answers[rank] != answers[group[0]]:
                    name = first_difference(answers[group[0]], answers[rank])
                    sites = f"{topology.site_of(group[0]).name} and {topology.site_of(rank).name}"
                    raise ValueError(
                        f"after a flush {sites} differ in {what} of {name}: does the script change it on one site "
                        "only, or by what one site has seen? Change it on all sites alike, or call geo.flush() first."
                    )
        raise AssertionError(f"{what} differed between sites, and then did not")

    def _warn_of(self, entry: Entry) -> None:
        if entry.name not in self._told and self._topology.rank == 0:
            logger.warning(
                "geo_accel: %s differs between sites after a flush, and it is made anew for every state_dict, so it "
                "could not be averaged: each site saves its own.",
                entry.name,
            )
        self._told.add(entry.name)


def round_pieces(lengths: Sequence[int]) -> list[tuple[Piece, ...]]:
    """By round of a flush, the pieces that it averages, for units of which a rank carries `lengths` elements."""
    sets: list[list[Piece]] = [[]]
    used = 0
    for unit, length in enumerate(lengths):
        parts = max(1, -(-length // FLUSH_ELEMENTS))
        for part in range(parts):
            if sets[-1] and used + length // parts > FLUSH_ELEMENTS:
                sets.append([])
                used = 0
            sets[-1].append(Piece(unit, part, parts))
            used += length // parts
    return [tuple(members) for members in sets]
