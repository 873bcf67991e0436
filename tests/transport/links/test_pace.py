# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.transport.links.pace import Pace

KERNEL_HOLDS = 128 * 1024


def looks(per_s: float, nbytes: int, holds: int = KERNEL_HOLDS, least_s: float = 2e-5) -> list[tuple[float, int]]:
    """A transfer over a line of so many bytes per second, whose kernel holds so many at a time until it is looked
    after: seconds slept and bytes moved, by look."""
    pace, now, left, seen = Pace(nbytes, 0, 0.0), 0.0, nbytes, []
    while left:
        slept = pace.pause_s(now)
        took = slept + least_s
        moved = min(left, holds, math.ceil(per_s * took))
        now, left = now + took, left - moved
        pace.moved(moved, here=True)
        seen.append((slept, moved))
    return seen


@pytest.mark.parametrize("mbps", [10, 100, 1000, 10_000])
def test_a_line_is_as_fast_as_without_pauses_and_looked_after_less_often(mbps):
    nbytes, per_s = 34_000_000, mbps * 1e6 / 8
    seen = looks(per_s, nbytes)
    assert sum(slept for slept, _ in seen) <= 1.02 * nbytes / per_s
    usual = sorted(moved for _, moved in seen)[len(seen) // 2]
    assert usual >= (64 * 1024 if 100 <= mbps <= 1000 else 1)


@given(st.integers(1, 10**8), st.floats(1e4, 1e10))
def test_nothing_is_slept_over(nbytes, per_s):
    pace = Pace(nbytes, nbytes, 0.0)
    assert pace.pause_s(1.0) == 0  # nothing is known yet
    pace.moved(min(nbytes, 1000), here=False)
    assert 0 <= pace.pause_s(1.0 + 1000 / per_s) <= 0.01
    for here in (True, False):
        pace.moved(nbytes, here=here)
    assert pace.pause_s(3.0) == 0  # all is there


def test_the_end_of_a_transfer_is_not_slept_over():
    """At 12.5 MB/s the last kilobyte takes less than a pause is worth."""
    pace = Pace(1_000_000, 0, 0.0)
    pace.moved(999_000, here=True)
    assert pace.pause_s(0.08) == 0
