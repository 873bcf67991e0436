# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from geo_accel.plan.partition import equal, full, stream

sizes = st.lists(st.integers(1, 10**7), min_size=1, max_size=40)
periods = st.integers(1, 40)
SCHEDULES = {
    "full": lambda units, period: full(len(units), period),
    "equal": lambda units, period: equal(len(units), period),
    "stream": stream,
}


def fractions(starts):
    """Share of each unit that the schedule sends in a period."""
    sent = {}
    for piece in (piece for step in starts for piece in step):
        sent[piece.unit] = sent.get(piece.unit, 0) + 1 / piece.parts
    return sent


@given(sizes, periods, st.sampled_from(sorted(SCHEDULES)))
def test_every_unit_is_sent_exactly_once_in_a_period(units, period, schedule):
    starts = SCHEDULES[schedule](units, period)
    assert len(starts) == period
    sent = fractions(starts)
    assert set(sent) == set(range(len(units))) and all(abs(share - 1) < 1e-9 for share in sent.values())


@given(sizes, periods, st.sampled_from(sorted(SCHEDULES)))
def test_pieces_come_in_backward_order(units, period, schedule):
    order = [(p.unit, p.part / p.parts) for step in SCHEDULES[schedule](units, period) for p in step]
    assert order == sorted(order)


@given(st.integers(1, 200), periods)
def test_equal_sets_are_equal_while_they_last(count, period):
    """As in the paper's ENP: ceil(L / H) units each, what is left in one more, then nothing."""
    counts = [len(step) for step in equal(count, period)]
    assert counts == sorted(counts, reverse=True) and counts[0] == -(-count // period)
    assert sum(0 < members < counts[0] for members in counts) <= 1


@given(sizes, periods)
def test_full_sends_all_in_the_last_step(units, period):
    assert [len(step) for step in full(len(units), period)] == [0] * (period - 1) + [len(units)]


@given(sizes, periods)
def test_stream_balances_bytes(units, period):
    carried = [sum(units[p.unit] / p.parts for p in step) for step in stream(units, period)]
    ideal = sum(units) / period
    assert max(carried) <= 1.1 * ideal + 1


def test_one_large_embedding_does_not_set_the_pace():
    units = [790_000] * 8 + [2_130_000]
    carried = [sum(units[p.unit] / p.parts for p in step) for step in stream(units, 5)]
    assert max(carried) < 1.03 * sum(units) / 5


@given(sizes, periods, st.integers(1, 40))
def test_fewer_rounds_than_steps_are_spread_over_the_period(units, period, rounds):
    rounds = min(rounds, period)
    used = [i for i, step in enumerate(stream(units, period, rounds)) if step]
    assert len(used) <= rounds
    assert all(b - a >= period // rounds for a, b in pairwise(used))
