# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What is measured of links with more than two sites, on a clock of the test's own."""

import pytest

from geo_accel.config import LinkConfig
from geo_accel.sync.measure import measure_links
from geo_accel.topology import Site, Topology

UP, DOWN = (1e6, 5e5, 2e5, 1e6), (1e7, 4e5, 1e7, 1e7)  # bytes per second
RANKS = range(len(UP))


class Rounds:
    """Transfers between four sites that take as long as the slowest end needs for what goes through it."""

    def time_transfer(self, nbytes, senders=None, receivers=None):
        senders, receivers = set(senders or RANKS), set(receivers or RANKS)
        up = max(nbytes * len(receivers - {rank}) / UP[rank] for rank in senders)
        down = max(nbytes * len(senders - {rank}) / DOWN[rank] for rank in receivers)
        return max(up, down), 0.0


class Control:
    """Every rank saw the same."""

    def gather(self, what, value):
        return [value for _ in RANKS]


def links_of(**stated):
    topology = Topology(sites=tuple(Site(name=f"site{rank}", ranks=(rank,)) for rank in RANKS), rank=0)
    return dict(measure_links(Control(), Rounds(), topology, LinkConfig(**stated)))


def test_both_directions_of_every_site_are_known():
    links = links_of()
    for rank, link in enumerate(links.values()):
        assert 1 / link.seconds_per_byte == pytest.approx(UP[rank], rel=0.01)
        # The others send equal shares to one: it hears no faster than three times what the slowest of them sends.
        slowest = 3 * min(UP[other] for other in RANKS if other != rank)
        assert 1 / link.down_seconds_per_byte == pytest.approx(min(DOWN[rank], slowest), rel=0.01)


def test_what_the_config_states_counts():
    for link in links_of(bandwidth_mbps=80.0).values():
        assert link.seconds_per_byte == pytest.approx(1e-7) and link.down_seconds_per_byte is None
    for link in links_of(latency_ms=7.0).values():
        assert link.latency_s == pytest.approx(7e-3) and link.down_seconds_per_byte is not None
