# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from geo_accel.profile.link import Link, probe_link
from geo_accel.profile.step import StepTimer


@pytest.mark.parametrize("mbps, latency_s", [(10, 0.05), (100, 0.001), (1000, 0.0002), (100_000, 0.0001)])
def test_a_probe_finds_the_link_it_was_given(mbps, latency_s):
    true = Link(latency_s=latency_s, seconds_per_byte=8e-6 / mbps)
    spent = []

    def exchange(nbytes):
        spent.append(true.seconds(1, nbytes))
        return spent[-1]

    found = probe_link(exchange)
    assert found.megabits_per_second == pytest.approx(mbps, rel=0.02)
    assert found.latency_s == pytest.approx(latency_s, rel=0.02)
    assert sum(spent) < 5


def test_step_time_leaves_out_the_warm_up_and_disturbed_steps():
    timer = StepTimer(warmup=2, wanted=6)
    for seconds in (9, 9, 3.0, 2.0, 7.0, 2.1, 2.2, 9.0):
        assert not timer.done
        timer.add(seconds)
    assert timer.done and timer.step_s == 2.1
