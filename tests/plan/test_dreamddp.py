# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import random
from itertools import combinations, combinations_with_replacement, pairwise
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.plan.dreamddp import exact, exposed, fill, search

# Zeros, transfers that just hide and transfers that dwarf backward all matter.
seconds = st.one_of(st.just(0.0), st.integers(1, 12).map(float), st.floats(1e-3, 10))


@st.composite
def cases(draw, units=7, periods=7, times=seconds):
    count = draw(st.integers(1, units))
    transfers = draw(st.lists(times, min_size=count, max_size=count))
    backward = draw(st.lists(times, min_size=count, max_size=count))
    return transfers, backward, draw(st.integers(1, periods))


def least(transfers, backward, partitions):
    return min(exposed(transfers, backward, [*ends, len(transfers)]) for ends in partitions)


def with_empty_sets(units, period):
    return combinations_with_replacement(range(units + 1), period - 1)


def without_empty_sets(units, period):
    return combinations(range(1, units), period - 1)


def close(seconds_):
    return pytest.approx(seconds_, rel=1e-9, abs=1e-9)


def test_exposed_by_hand():
    # Backward ends at 3. Set 1 ends at 1 + 1 = 2; set 2 starts at 2, ends at 4, unit 2 then at 5.
    assert exposed([1, 2, 1], [1, 1, 1], [1, 3]) == 2
    # All in one step: 1 to 2, 2 to 4, 4 to 5; a step that sends nothing exposes nothing.
    assert exposed([1, 2, 1], [1, 1, 1], [0, 3]) == 2
    # Unit 2 alone cannot start before backward has ended.
    assert exposed([1, 1, 1], [1, 1, 1], [1, 2, 3]) == 1


@given(cases())
def test_exact_is_the_least_of_all_contiguous_partitions(case):
    transfers, backward, period = case
    ends = exact(*case)
    assert len(ends) == period and ends[-1] == len(transfers) and ends == sorted(ends) and ends[0] >= 0
    assert exposed(transfers, backward, ends) == close(
        least(transfers, backward, with_empty_sets(len(transfers), period))
    )


@given(cases())
def test_search_is_the_least_of_the_partitions_without_empty_sets(case):
    transfers, backward, period = case
    period = min(period, len(transfers))
    ends = search(transfers, backward, period)
    assert len(ends) == period and ends[-1] == len(transfers)
    assert all(before < end for before, end in pairwise([0, *ends]))
    found = exposed(transfers, backward, ends)
    assert found == close(least(transfers, backward, without_empty_sets(len(transfers), period)))
    assert found >= exposed(transfers, backward, exact(transfers, backward, period)) - 1e-9


@given(cases(units=16, periods=6))
def test_search_never_beats_exact(case):
    transfers, backward, period = case
    period = min(period, len(transfers))
    best = exposed(transfers, backward, exact(transfers, backward, period))
    assert exposed(transfers, backward, search(transfers, backward, period)) >= best - 1e-9


@given(cases(units=30, periods=12))
def test_a_longer_period_never_exposes_more(case):
    transfers, backward, period = case
    longer = exposed(transfers, backward, exact(transfers, backward, period + 1))
    assert longer <= exposed(transfers, backward, exact(*case)) + 1e-9


def test_search_needs_a_unit_for_each_step():
    with pytest.raises(ValueError, match="2 units do not give 3 steps one each"):
        search([1, 1], [1, 1], 3)


def over(transfers, backward, first, stop):
    """Seconds that one step exposes when it sends the units from `first` to before `stop`."""
    free = 0.0
    for unit in range(first, stop):
        free = max(free, sum(backward[: unit + 1])) + transfers[unit]
    return max(0.0, free - sum(backward))


@given(cases(units=20, periods=10))
def test_filling_extends_sets_and_exposes_no_more(case):
    transfers, backward, _ = case
    ends = exact(*case)
    filled = fill(transfers, backward, ends)
    starts = [0, *ends[:-1]]
    assert [first for first, _ in filled] == starts
    for (first, stop), end in zip(filled, ends, strict=True):
        assert end <= stop <= len(transfers)
        assert over(transfers, backward, first, stop) <= over(transfers, backward, first, end) + 1e-9


@given(cases(units=20, periods=10, times=st.integers(0, 12)))
def test_filling_takes_all_that_hides(case):
    transfers, backward, _ = case
    ends = exact(*case)
    for (first, stop), end in zip(fill(transfers, backward, ends), ends, strict=True):
        if over(transfers, backward, first, end) > 0:
            assert stop == end
        elif stop < len(transfers):
            assert over(transfers, backward, first, stop + 1) > 0


def test_filling_by_hand():
    # One second each: in step 1 unit 0 ends at 2 and unit 1 at 3, with the end of backward; unit 2 would end at 4.
    assert fill([1, 1, 1], [1, 1, 1], [1, 2, 3]) == [(0, 2), (1, 2), (2, 3)]
    # A step that sends nothing by itself takes what hides there.
    assert fill([1, 1], [1, 5], [0, 2]) == [(0, 1), (0, 2)]


@pytest.mark.alone
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0], ids=["hides", "even", "overflows"])
def test_a_deep_model_is_planned_at_once(scale):
    draw = random.Random(1)
    transfers = [draw.random() * scale for _ in range(400)]
    backward = [draw.random() for _ in range(400)]
    times = []
    for _ in range(3):
        start = perf_counter()
        ends = exact(transfers, backward, 64)
        times.append(perf_counter() - start)
    assert min(times) < 0.5
    assert len(ends) == 64 and ends[-1] == 400
