# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Figures of the demo, from recordings whose answers are known."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.demo.figures import loss_curve, measure, period_edges, targets
from benchmarks.demo.runs import Run


def make_run(steps_of_sites, sent_per_step=(0, 0), eval_loss=1.0, losses=None, method="geo"):
    """A run whose sites took the given seconds per step."""
    recordings = []
    for steps, bytes_per_step in zip(steps_of_sites, sent_per_step, strict=True):
        recordings.append(
            {
                "boundaries": list(accumulate(steps, initial=100.0)),
                "sent": [1000 + bytes_per_step * k for k in range(len(steps) + 1)],
                "losses": losses or [1.0] * len(steps),
                "eval_loss": eval_loss,
            }
        )
    return Run(method=method, label=method, recordings=recordings, began=0.0, duration_s=1.0, link_mbps=[95.0, 95.0])


@given(steps=st.integers(1, 200), warmup=st.integers(0, 40), period=st.integers(1, 60))
def test_edges_leave_out_the_warm_up_and_what_is_no_whole_period(steps, warmup, period):
    if steps < warmup + period:
        with pytest.raises(ValueError, match="no whole period"):
            period_edges(steps + 1, warmup, period)
        return
    edges = period_edges(steps + 1, warmup, period)
    assert edges[0] == warmup and edges[-1] <= steps < edges[-1] + period
    assert {b - a for a, b in pairwise(edges)} == {period}


def test_a_period_with_one_synchronisation_counts_whole():
    one = measure([make_run([[9.0] * 3 + [0.5, 0.5, 2.0] * 4] * 2)], warmup=3, period=3)
    assert one.step_s == pytest.approx(1.0) and one.periods == 4


def test_the_warm_up_does_not_count():
    assert measure([make_run([[9.0] * 5 + [0.5] * 8] * 2)], warmup=5, period=2).step_s == pytest.approx(0.5)


def test_one_disturbed_period_changes_nothing():
    assert measure([make_run([[0.5] * 6 + [7.0] + [0.5] * 3] * 2)], warmup=0, period=2).step_s == pytest.approx(0.5)


def test_the_slower_site_counts():
    assert measure([make_run([[0.5] * 6, [0.75] * 6])], warmup=0, period=2).step_s == pytest.approx(0.75)


def test_every_run_counts_alike_however_long():
    runs = [make_run([[2.0] * 40] * 2), make_run([[1.0] * 4] * 2), make_run([[1.2] * 4] * 2)]
    one = measure(runs, warmup=0, period=2)
    assert one.runs_s == pytest.approx([2.0, 1.0, 1.2]) and one.step_s == pytest.approx(1.2)
    assert one.periods == 24 and one.low_s == one.high_s == pytest.approx(2.0)


def test_bytes_are_a_mean_over_sites_and_whole_periods():
    run = make_run([[1.0] * 8] * 2, sent_per_step=(100, 300))
    run.recordings[0]["sent"][-1] += 10**9
    assert measure([run], warmup=1, period=2).wan_bytes_per_step == pytest.approx(200)


@pytest.mark.parametrize("geo, held", [(1.0, [True, True, True]), (1.2, [False, False, False])])
def test_targets(geo, held):
    seconds = {"none": 0.95, "ddp": 8.0, "local_sgd": 2.5, "geo": geo}
    figures = {method: measure([make_run([[one] * 4] * 2)], 0, 2) for method, one in seconds.items()}
    found = targets(figures)
    assert [one.held for one in found] == held
    assert [one.measured for one in found] == pytest.approx([0.95 / geo, 8.0 / geo, 2.5 / geo])


def test_loss_curve_is_a_mean_over_sites_and_last_steps():
    run = make_run([[1.0] * 4, [2.0] * 4])
    run.recordings[0]["losses"], run.recordings[1]["losses"] = [4.0, 2.0, 0.0, 0.0], [4.0, 4.0, 2.0, 0.0]
    seconds, losses = loss_curve(run, width=2)
    assert seconds == pytest.approx([2.0, 4.0, 6.0, 8.0])
    assert losses == pytest.approx([4.0, 3.5, 2.0, 0.5])
