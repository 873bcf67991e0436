# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.config.parts import Outer
from geo_accel.plan.damping import Loss, damped, has_risen, pooled


def loss(mean, error=0.01):
    return Loss(mean=mean, error=error)


@pytest.mark.parametrize(
    "before, now, risen",
    [
        (loss(2.0), loss(2.2), True),
        (loss(2.0), loss(1.9), False),
        (loss(2.0), loss(2.01), False),  # half a percent
        (loss(2.0, 0.1), loss(2.2, 0.1), False),  # within noise
        (loss(2.0), loss(math.nan), True),
        (loss(2.0), loss(math.inf), True),
    ],
)
def test_a_rise_is_more_than_noise(before, now, risen):
    assert has_risen(before, now) == risen


def test_ranks_are_pooled():
    assert pooled([(20, 2.0, 0.3), (20, 4.0, 0.4)]) == Loss(mean=3.0, error=0.25)
    assert pooled([(20, 2.0, 0.3), (0, 0.0, 0.0)]) is None and pooled([]) is None


@given(st.floats(0.05, 3), st.floats(0, 0.99))
def test_damping_ends_in_plain_averaging(lr, momentum):
    outer, seen = Outer(lr=lr, momentum=momentum), 0
    while outer != Outer():
        smaller = damped(outer)
        assert smaller.momentum <= outer.momentum and abs(smaller.lr - 1) <= abs(outer.lr - 1)
        outer, seen = smaller, seen + 1
        assert seen < 10
