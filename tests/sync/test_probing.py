# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A probe beside training ends at the same boundary on every rank, whoever is ahead when it ends."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from geo_accel.config import LinkConfig
from geo_accel.profile.link import LONG_LATENCY_S, Link
from geo_accel.rounds.transfers import Transfers
from geo_accel.sync import probing
from geo_accel.sync.probing import Probing
from geo_accel.transport.errors import SiteLostError
from tests.transport.threads import alone_in_site, on_all_sites

FOUND = Link.of(mbps=100, latency_ms=150)


class Background:
    """What a probe wants of an engine's rounds."""

    def __init__(self, transport, latency_s):
        self.transfers = Transfers(transport, alone_in_site(transport))
        self.transfers.latency = lambda: [latency_s] * len(transport.topology.sites)
        self._pool = ThreadPoolExecutor(max_workers=1)
        self.in_background = self._pool.submit


def probed(sites, boundaries, monkeypatch, latency_s=0.15, measure=None):
    """By site, the first boundary at which the probe was over; each site's training thread passes `boundaries[site]`
    boundaries, then waits until everybody's have been passed, and only then the links are known."""
    passed = threading.Barrier(sites + sites)  # both threads of every site

    def measure_links(transfers, topology, config, latency):
        passed.wait(20)
        return tuple((site.name, FOUND) for site in topology.sites)

    monkeypatch.setattr(probing, "measure_links", measure or measure_links)

    def work(transport):
        rounds = Background(transport, latency_s)
        probe = Probing(rounds, transport.topology, LinkConfig())
        boundary = 0
        for boundary in range(1, boundaries[transport.topology.rank] + 1):
            assert not probe.is_over(boundary) and probe.beside_training
        passed.wait(20)
        while not probe.is_over(boundary := boundary + 1):
            assert probe.links is None
        return boundary, probe.links, probe.future

    return on_all_sites(sites, work)


@pytest.mark.parametrize("boundaries", [(3, 3), (0, 5), (4, 1), (2, 7, 0), (6, 6, 1, 3)], ids=str)
def test_all_ranks_learn_of_the_end_at_the_same_boundary(boundaries, monkeypatch):
    for _ in range(20):
        found = probed(len(boundaries), boundaries, monkeypatch)
        over = {boundary for boundary, _, _ in found}
        assert len(over) == 1 and over.pop() > max(boundaries)
        for _, links, future in found:
            assert [link for _, link in links] == [FOUND] * len(boundaries) and future is None


def test_a_short_or_stated_line_is_known_at_once(monkeypatch):
    monkeypatch.setattr(probing, "measure_links", lambda _, topology, *__: ((topology.site.name, FOUND),))

    def work(transport):
        short = Probing(Background(transport, 0.9 * LONG_LATENCY_S), transport.topology, LinkConfig())
        stated = Probing(Background(transport, 0.0), transport.topology, LinkConfig(bandwidth_mbps=50, latency_ms=10))
        short.finish()
        assert short.is_over(1) and stated.is_over(1) and short.future is stated.future is None
        return short.finish(), [link.megabits_per_second for _, link in stated.finish()]

    for links, stated in on_all_sites(2, work):
        assert links[0][1] == FOUND and stated == pytest.approx([50, 50])


def test_what_breaks_in_the_background_is_raised_where_it_is_asked_for(monkeypatch):
    def lost(*_):
        raise SiteLostError("site1 is gone")

    monkeypatch.setattr(probing, "measure_links", lost)

    def work(transport):
        probe = Probing(Background(transport, 0.2), transport.topology, LinkConfig())
        with pytest.raises(SiteLostError):
            probe.future.result(20)
        with pytest.raises(SiteLostError):
            probe.finish()
        return True

    assert all(on_all_sites(2, work))
