# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Deadlines: what is stated holds, what is derived has been seen to be enough."""

from hypothesis import given
from hypothesis import strategies as st

from geo_accel.transport.patience import LONGEST_S, Patience

WAITS = st.lists(st.floats(0, 1000), max_size=700)


@given(st.floats(0.1, 1e6), WAITS)
def test_what_is_stated_holds(stated, waits):
    patience = Patience(stated)
    for wait in waits:
        patience.saw(wait)
    assert patience.seconds == stated


@given(WAITS)
def test_what_is_derived_stays_within_reason_and_above_what_was_usual(waits):
    patience = Patience()
    for wait in waits:
        patience.saw(wait)
    recent = sorted(waits[-512:])
    assert 600 <= patience.seconds <= LONGEST_S
    if len(waits) >= 20:
        assert patience.seconds >= min(LONGEST_S, 20 * recent[int(0.98 * (len(recent) - 1))])


def test_a_run_whose_waits_are_short_waits_less_and_one_outlier_changes_nothing():
    patience = Patience()
    assert patience.seconds == LONGEST_S
    for _ in range(200):
        patience.saw(0.5)
    assert patience.seconds == 600
    patience.saw(500.0)
    assert patience.seconds == 600
    for _ in range(200):
        patience.saw(60.0)
    assert patience.seconds == 1200
