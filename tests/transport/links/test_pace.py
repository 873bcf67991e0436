# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.transport.links.pace import Pace

KERNEL_HOLDS = 384 * 1024


def beginning(to_come: int, to_go: int = 0) -> Pace:
    pace = Pace()
    pace.begin(to_come, to_go, 0.0)
    return pace


def looks(
    per_s: float, nbytes: int, holds: int = KERNEL_HOLDS, least_s: float = 2e-5, pace: Pace | None = None
) -> list[tuple[float, int]]:
    """A transfer over a line of so many bytes per second, whose kernel holds so many at a time until it is looked
    after, and takes them at once in the beginning: seconds slept and bytes moved, by look."""
    pace = pace or Pace()
    pace.begin(nbytes, 0, 0.0)
    now, left, seen, moved = 0.0, nbytes, [], min(nbytes, holds)
    while left:
        now, left = now + least_s, left - moved
        pace.moved(moved, here=True)
        slept = pace.pause_s(now)
        seen.append((slept, moved))
        now, moved = now + slept, min(left, holds, math.ceil(per_s * (slept + least_s)))
    return seen


@pytest.mark.parametrize("mbps", [10, 100, 1000, 10_000])
def test_a_line_is_as_fast_as_without_pauses_and_looked_after_less_often(mbps):
    nbytes, per_s = 34_000_000, mbps * 1e6 / 8
    seen = looks(per_s, nbytes)
    assert sum(slept for slept, _ in seen) <= 1.02 * nbytes / per_s
    usual = sorted(moved for _, moved in seen)[len(seen) // 2]
    assert usual >= (128 * 1024 if 100 <= mbps <= 1000 else 1)


def test_a_small_swap_begins_as_the_last_one_ended():
    """0.6 MB over 100 Mbit/s: 384 KB at once, the rest in two pauses."""
    pace, pauses = Pace(), []
    for _ in range(2):
        pauses.append([slept for slept, _ in looks(12.5e6, 600_000, pace=pace) if slept])
    assert len(pauses[1]) <= 3
    assert pauses[1][0] == pytest.approx(192 * 1024 / 12.5e6, rel=0.01)


@given(st.integers(1, 10**8), st.floats(1e4, 1e10))
def test_nothing_is_slept_over(nbytes, per_s):
    pace = beginning(nbytes, nbytes)
    assert pace.pause_s(1.0) == 0  # nothing is known yet
    for now in (1.0, 1.0 + 1000 / per_s):
        pace.moved(min(nbytes, 1000), here=False)
        assert 0 <= pace.pause_s(now) <= 0.02
    assert pace.pause_s(1e6) == 0  # nothing moves
    for here in (True, False):
        pace.moved(nbytes, here=here)
    assert pace.pause_s(2e6) == 0  # all is there


def test_the_end_of_a_transfer_is_not_slept_over():
    """At 12.5 MB/s the last kilobyte takes less than a pause is worth."""
    pace = beginning(1_000_000)
    for nbytes, now in ((10_000, 0.001), (989_000, 0.08)):
        pace.moved(nbytes, here=True)
        assert pace.pause_s(now) == 0
