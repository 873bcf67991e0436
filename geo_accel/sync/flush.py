# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A flush: one exact average of the whole model, after which all sites hold the same bits."""

from collections.abc import Sequence

from torch import nn

from geo_accel.plan.averaging import Averaging, Outer
from geo_accel.plan.cost import exchange_for
from geo_accel.plan.plan import Piece
from geo_accel.sync.masters import Masters
from geo_accel.sync.rounds import Round, Rounds
from geo_accel.topology import Topology
from geo_accel.units import averaged_buffers

# Elements per round of a flush, two of which are under way: enough to fill any link, little enough that staging stays
# small and that little is encoded before the first bytes leave.
FLUSH_ELEMENTS = 4 * 1024 * 1024


class Flush:
    """Averages one model exactly, whatever its plan's codec."""

    def __init__(self, model: nn.Module, masters: Masters, rounds: Rounds, topology: Topology) -> None:
        self._model = model
        self._masters = masters
        self._rounds = rounds
        self._topology = topology

    def run(self, step: int, coefficients: Sequence[float]) -> None:
        """Training thread, at step boundary `step` with nothing in flight. Collective.

        `coefficients` are the sites' weights in the mean; empty where all count alike. Raises as rounds do.
        """
        exact = Averaging(exchange=exchange_for(len(self._topology.sites)), coefficients=tuple(coefficients))
        waiting: Round | None = None
        for pieces in round_pieces([length for _, length in self._masters.carried]):
            running = self._rounds.start(pieces, averaging=exact, outer=Outer(), step=step, delay=0)
            # The one before is applied, and the next one encoded, while this one crosses the link.
            if waiting is not None:
                self._rounds.apply(waiting)
            waiting = running
        if waiting is not None:
            self._rounds.apply(waiting)
        self._rounds.average_buffers(averaged_buffers(self._model), step)
        # Low-precision parameters round what they are given: the anchor is what they hold.
        self._rounds.reset_anchor()


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
