# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Figures of the demo, from recordings whose answers are known."""

from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.demo.course import turns_that_fit
from benchmarks.demo.figures import loss_curve, measure, period_edges, steps_to, targets
from benchmarks.demo.runs import Run
from benchmarks.demo.setting import FULL, LEAST_TURNS, METHODS
from benchmarks.demo.turns import methods_of


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


def make_turns(*sites):
    """A run of turns, each site's a list of seconds by method."""
    recordings = [{"turns": turns} for turns in sites]
    return Run(method="turns", label="turns", recordings=recordings, began=0.0, duration_s=1.0, link_mbps=[95.0])


ONE = make_run([[0.5] * 8] * 2)


def test_each_turn_is_compared_with_itself():
    """A machine that gets slower by half in the course of the run changes nothing, nor does one disturbed turn."""
    turns = [{"none": 0.95 * mood, "geo": mood} for mood in (0.3, 0.33, 0.4, 0.45)] + [{"none": 0.3, "geo": 9.0}]
    found = measure("geo", ONE, make_turns(turns, turns), warmup=1, period=2)
    assert found.efficiency == pytest.approx(0.95)
    assert found.efficiencies == pytest.approx([0.95] * 4 + [0.3 / 9])
    assert found.step_s == 0.4 and found.low_s == 0.33


def test_the_slower_site_counts():
    turns = make_turns([{"none": 0.4, "geo": 0.5}] * 3, [{"none": 0.6, "geo": 0.75}] * 3)
    found = measure("geo", ONE, turns, warmup=1, period=2)
    assert found.step_s == 0.75 and found.efficiency == pytest.approx(0.8)
    assert measure("none", ONE, turns, warmup=1, period=2).efficiency == 1.0


def test_who_does_not_take_every_turn_is_compared_with_those_it_took():
    turns = [{"none": 0.3, "ddp": 3.0}, {"none": 0.5}, {"none": 0.4, "ddp": 2.0}]
    found = measure("ddp", ONE, make_turns(turns, turns), warmup=1, period=2)
    assert found.efficiencies == pytest.approx([0.1, 0.2])
    assert [len(methods_of(turn, 4)) for turn in range(6)] == [4, 2, 2, 2, 4, 2]
    assert methods_of(1, 4) != methods_of(2, 4) == list(reversed(methods_of(1, 4)))


def test_bytes_are_a_mean_over_sites_and_whole_periods():
    run = make_run([[1.0] * 8] * 2, sent_per_step=(100, 300))
    run.recordings[0]["sent"][-1] += 10**9
    turns = make_turns([{"none": 1.0, "geo": 1.0}], [{"none": 1.0, "geo": 1.0}])
    assert measure("geo", run, turns, warmup=1, period=2).wan_bytes_per_step == pytest.approx(200)


CHECKS = [(35, 6.60), (42, 6.50), (49, 6.42), (56, 6.36), (63, 6.32), (70, 6.30)]
"""DDP's held-out loss by step."""


def test_steps_to_a_loss_are_interpolated():
    assert steps_to(6.46, CHECKS) == pytest.approx(45.5)
    assert steps_to(6.30, CHECKS) == 70
    assert steps_to(6.10, CHECKS) == 70  # better than DDP ends: as many steps
    assert steps_to(6.90, CHECKS) == 35  # at most so many


def judged(step_s=0.315, loss=6.328, machine=1.0):
    """Which targets hold for a geo_accel of such steps and such a loss, on a machine that computes so much slower.

    DDP sends for as long whatever the machine.
    """
    seconds = {"none": 0.306 * machine, "ddp": 2.8 + 0.3 * machine, "local_sgd": 0.5 + 0.3 * machine}
    turn = seconds | {"geo": step_s * machine}
    turns = make_turns([turn] * 5, [turn] * 5)
    figures = {method: measure(method, ONE, turns, 1, 2) for method in METHODS}
    figures["geo"] = replace(figures["geo"], eval_loss=loss)
    return [target.held for target in targets(figures, CHECKS)]


@pytest.mark.parametrize("machine", [0.5, 1.0, 2.0, 10.0])
def test_targets_are_shares_that_a_slow_machine_holds_too_and_a_worse_build_does_not(machine):
    assert judged(machine=machine) == [True, True, True]
    slower, forgetful = judged(step_s=1.1 * 0.315, machine=machine), judged(loss=6.40, machine=machine)
    assert not slower[0] and not slower[2] and slower[1]
    assert forgetful[0] and not forgetful[1] and not forgetful[2]


def test_the_goal_is_not_held_by_sending_nothing():
    """Without communication the efficiency is 1, and DDP needs far fewer steps to that loss."""
    assert judged(step_s=0.306, loss=6.45)[1:] == [False, False]


def test_turns_are_as_many_as_there_is_time_for():
    seconds = {"none": 0.3, "geo": 0.3, "local_sgd": 0.7, "ddp": 3.1}
    assert turns_that_fit(FULL, seconds, 6, 1e4) == FULL.turns
    few = turns_that_fit(FULL, seconds, 6, 100.0)
    assert LEAST_TURNS < few < FULL.turns
    assert few * (7 * 0.6 + (7 * 0.7 + 9.3) / FULL.others_every) < 100
    assert turns_that_fit(FULL, seconds, 6, -50.0) == LEAST_TURNS


def test_loss_curve_is_a_mean_over_sites_and_last_steps():
    run = make_run([[1.0] * 4, [2.0] * 4])
    run.recordings[0]["losses"], run.recordings[1]["losses"] = [4.0, 2.0, 0.0, 0.0], [4.0, 4.0, 2.0, 0.0]
    seconds, losses = loss_curve(run, step_s=2.0, warmup=0, width=2)
    assert seconds == pytest.approx([2.0, 4.0, 6.0, 8.0])
    assert losses == pytest.approx([4.0, 3.5, 2.0, 0.5])


def test_loss_curve_takes_the_time_of_the_turns_not_of_a_run_in_a_better_minute():
    run = make_run([[1.5, 0.5, 0.5, 0.5]] * 2)
    seconds, _ = loss_curve(run, step_s=1.0, warmup=1)
    assert seconds == pytest.approx([3.0, 4.0, 5.0, 6.0])
