# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.profile.link import PROBE_LATENCIES, PROBE_LONGEST_S, PROBE_SECONDS, Link, probe_links
from tests.profile.tcp import TcpLine


@pytest.mark.parametrize("mbps, latency_s", [(10, 0.05), (100, 0.001), (1000, 0.0002), (100_000, 0.0001)])
def test_a_probe_finds_the_link_it_was_given(mbps, latency_s):
    true = Link(latency_s=latency_s, seconds_per_byte=8e-6 / mbps)
    spent = []

    def exchange(nbytes):
        spent.append(true.seconds(1, nbytes))
        return [spent[-1]]

    (found,) = probe_links(exchange, [latency_s])
    assert found.megabits_per_second == pytest.approx(mbps, rel=0.02)
    assert found.latency_s == latency_s
    # Training waits for it. One transfer of what is wanted; those that find its size take less together. Where losses
    # would tell, another half second looks for them.
    looking = 0.5 * (latency_s > 0.005)
    assert spent[-1] >= PROBE_SECONDS or mbps == 100_000
    assert sum(spent) < 1.7 * PROBE_SECONDS + 8 * latency_s + 2 * looking


def test_every_site_gets_its_own_link():
    true = [Link.of(mbps=100, latency_ms=1), Link.of(mbps=20, latency_ms=30)]
    found = probe_links(lambda nbytes: [link.seconds(1, nbytes) for link in true], [0.001, 0.03])
    assert [link.megabits_per_second for link in found] == pytest.approx([100, 20], rel=0.02)
    assert Link.slowest(found).latency_s == pytest.approx(0.03, rel=0.02)


@given(mbps=st.floats(10, 10_000), one_way_s=st.floats(0, 0.3))
def test_a_probe_waits_until_the_window_is_open(mbps, one_way_s):
    round_trip_s = max(2 * one_way_s, 1e-4)
    line = TcpLine(mbps, round_trip_s)
    (found,) = probe_links(line, [round_trip_s])
    assert found.megabits_per_second == pytest.approx(mbps, rel=0.15)
    # Nothing larger is begun after the bound, and what was begun is repeated once or twice.
    assert line.spent <= 1.5 * (PROBE_LONGEST_S + PROBE_LATENCIES * round_trip_s)


def test_a_long_line_takes_two_seconds_and_a_half():
    line = TcpLine(100, 0.15)
    (found,) = probe_links(line, [0.15])
    assert found.megabits_per_second == pytest.approx(100, rel=0.01) and line.spent < 2.5


@pytest.mark.parametrize("round_trip_s", [0.075, 0.15])
def test_a_line_that_loses_packets_is_known_for_what_it_carries_in_the_end(round_trip_s):
    found = []
    for seed in range(20):
        line = TcpLine(100, round_trip_s, loss=0.001, seed=seed)
        (link,) = probe_links(line, [round_trip_s], have_lost=line.have_lost)
        # A transfer or two may get through whole.
        assert link.loses or line.lost == 0
        found.append(link.megabits_per_second)
        assert line.spent < 14
    true = median(TcpLine(100, round_trip_s, loss=0.001, seed=seed).lasting_mbps() for seed in range(20))
    # A window that has opened to a hundred takes its time to shrink.
    assert 0.4 * true < median(found) < 2 * true
    assert max(found) < 60


def test_a_window_that_had_opened_too_far_is_no_line_that_loses():
    """Where the system says that something was sent again, it counts if it goes on."""
    line, asked = TcpLine(100, 0.1), []

    def have_lost():
        asked.append(len(asked) == 0)
        return asked[-1]

    (found,) = probe_links(line, [0.1], have_lost=have_lost)
    assert asked == [True, False] and not found.loses
    assert found.megabits_per_second == pytest.approx(100, rel=0.05)
