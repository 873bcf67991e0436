# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from geo_accel.profile.link import PROBE_SECONDS, Link, probe_links


@pytest.mark.parametrize("mbps, latency_s", [(10, 0.05), (100, 0.001), (1000, 0.0002), (100_000, 0.0001)])
def test_a_probe_finds_the_link_it_was_given(mbps, latency_s):
    true = Link(latency_s=latency_s, seconds_per_byte=8e-6 / mbps)
    spent = []

    def exchange(nbytes):
        spent.append(true.seconds(1, nbytes))
        return [spent[-1]]

    (found,) = probe_links(exchange)
    assert found.megabits_per_second == pytest.approx(mbps, rel=0.02)
    assert found.latency_s == pytest.approx(latency_s, rel=0.02)
    # Training waits for it. One transfer of what is wanted; those that find its size take less together.
    assert spent[-1] >= PROBE_SECONDS or mbps == 100_000
    assert sum(spent) < 1.7 * PROBE_SECONDS + 8 * latency_s


def test_every_site_gets_its_own_link():
    true = [Link.of(mbps=100, latency_ms=1), Link.of(mbps=20, latency_ms=30)]
    found = probe_links(lambda nbytes: [link.seconds(1, nbytes) for link in true])
    assert [link.megabits_per_second for link in found] == pytest.approx([100, 20], rel=0.02)
    assert Link.slowest(found).latency_s == pytest.approx(0.03, rel=0.02)
