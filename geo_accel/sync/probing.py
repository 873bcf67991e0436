# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Measuring the links at the start of a run, beside the steps that are measured anyway.

Whether a line is long shows beside a step as well as anywhere; of a long one a probe is nearly all waiting, which
training need not share. A short one is filled for a moment while training rests, so that neither disturbs the other.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait

from geo_accel.config import LinkConfig
from geo_accel.profile.link import LONG_LATENCY_S, Link
from geo_accel.rounds.rounds import Rounds
from geo_accel.sync.measure import measure_links, stated_links
from geo_accel.topology import Topology

Links = tuple[tuple[str, Link], ...]


class Probing:
    """One rank's view of one probe of all links. Collective.

    Beside training it ends at no boundary in particular, but all ranks have to act on its end at the same one: the
    first that none of them had passed when it ended. Whoever comes to a boundary after that waits until all have told
    how far they are, which takes a latency and needs no rank's training thread, so that none can wait for another.
    """

    def __init__(self, rounds: Rounds, topology: Topology, config: LinkConfig) -> None:
        """Training thread, at a boundary: begins, where the config leaves something open."""
        self._rounds, self._topology, self._config = rounds, topology, config
        self._lock = threading.Lock()
        self._boundary, self._ending = 0, False
        self.beside_training = False
        """Whether it went on, or goes on, beside steps."""
        self._links = stated_links(rounds.transfers.one_ways, topology, config)
        self._future: Future[tuple[Links | None, float]] | None = None
        """Of the links, None if they are to be measured at rest, and the last boundary that any rank has passed
        without knowing them."""
        if self._links is None:
            self._future = rounds.in_background(self._run)
            # With a short line that is enough to go on with, and sites that are all here lose no step.
            wait([self._future], timeout=2 * LONG_LATENCY_S)

    @property
    def future(self) -> Future | None:
        """Of what goes on in the background, for whoever wants to know whether it has failed; None once it is over."""
        return self._future

    @property
    def links(self) -> Links | None:
        """By site; None before it is over."""
        return self._links

    def is_over(self, boundary: int) -> bool:
        """Training thread, at every boundary, with its number: whether the links are known, on all ranks alike.

        Raises SiteLostError for a site that does not answer.
        """
        if self._future is None:
            return True
        with self._lock:
            if not self._ending:
                self._boundary = boundary
                self.beside_training = True
                return False
        _, passed = self._future.result()
        if boundary > passed:
            self.finish()
        return self._future is None

    def finish(self) -> Links:
        """Training thread, at the same point on every rank: waits for the end."""
        if self._future is not None:
            self._links, _ = self._future.result()
            if self._links is None:
                self._links = self._rounds.in_background(self._at_rest).result()
            self._future = None
        assert self._links is not None  # stated, or measured
        return self._links

    def _run(self) -> tuple[Links | None, float]:
        transfers = self._rounds.transfers
        latency = transfers.latency()
        links = self._measure(latency) if max(latency) >= LONG_LATENCY_S else None
        with self._lock:
            self._ending = True
        return links, max(transfers.tell(self._boundary))

    def _at_rest(self) -> Links:
        return self._measure(self._rounds.transfers.latency())

    def _measure(self, latency: Sequence[float]) -> Links:
        return measure_links(self._rounds.transfers, self._topology, self._config, latency)
