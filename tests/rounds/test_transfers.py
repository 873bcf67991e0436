# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Timed transfers between sites that are threads: all hear the same, whoever takes part."""

import pytest

from geo_accel.rounds.transfers import Transfers
from geo_accel.transport.faulty import FaultyTransport
from tests.transport.threads import alone_in_site, on_all_sites


def transfers_on(transport):
    return Transfers(transport, alone_in_site(transport))


@pytest.mark.parametrize("sites", [2, 3, 5])
def test_every_site_hears_the_seconds_of_all(sites):
    def work(transport):
        transfers = transfers_on(transport)
        transfers.meet()
        everyone = transfers.exchange(1000)
        # One sends, another receives, and whoever has no part in it hears of it all the same.
        pair = transfers.exchange({0: 500}, {1})
        assert transfers.transfer(100) > 0
        return everyone, pair, transfers.latency()

    first, *others = on_all_sites(sites, work)
    assert all(other == first for other in others)
    everyone, pair, latency = first
    assert all(seconds > 0 for seconds in (*everyone, *latency)) and len(everyone) == len(latency) == sites
    assert pair[0] > 0 and pair[1] > 0 and all(seconds == 0 for seconds in pair[2:])


def test_the_slow_one_is_seen_and_a_latency_is_the_quickest_of_a_few():
    def work(transport):
        slow = FaultyTransport(transport)
        if transport.topology.rank == 1:
            slow.delay = lambda sent, received: 0.05 if received else 0.0
        transfers = transfers_on(slow)
        transfers.meet()
        return transfers.exchange(10), transfers.latency()

    for seconds, latency in on_all_sites(2, work):
        assert seconds[1] >= 0.05 and 0.05 <= latency[1] < 0.08
