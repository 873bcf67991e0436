# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A link that changes while training runs, and a run that follows it."""

import json
import sys
from itertools import pairwise
from statistics import fmean

import pytest

from geo_accel.lab import run_sites
from geo_accel.sync.planning import REVIEW_STEPS

CHANGE_AT, LAST = 40, 60
STEP_S = 0.08


def run(out, mbps, steps, config=None, rate_changes=()):
    command = [sys.executable, "-m", "tests.workers.pace_worker", "--steps", str(steps), "--out", str(out)]
    command += ["--step-s", str(STEP_S), "--values", "1200000", "--config", json.dumps(config or {})]
    result = run_sites(command, bandwidth_mbps=mbps, rate_changes=rate_changes, timeout_s=150)
    assert result.exit_code == 0 and result.stopped_by is None, result.sites[0].output[-3000:]
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]


def step_s(record):
    """Mean step of the last steps of a run."""
    return fmean(b - a for a, b in pairwise(record["boundaries"][-LAST:]))


@pytest.mark.lab
@pytest.mark.slow
def test_a_lasting_change_is_followed_and_efficiency_recovers(tmp_path):
    steps = CHANGE_AT + 2 * REVIEW_STEPS + 40 + LAST
    # With fewer bits the plan would hide over either link, and an outer step may prefer a long period anyway.
    config = {"compression": {"codec": "bf16"}, "sync": {"outer": "mean"}}
    followed = run(tmp_path / "followed", 100, steps, config, rate_changes=[(f"step {CHANGE_AT}.", 30)])
    fresh = run(tmp_path / "fresh", 30, 40 + LAST, config)
    plans = [record["summary"]["plans"] for record in followed]
    assert plans[0] == plans[1], "all sites adopt the same plans at the same steps"
    first, second = plans[0][0], plans[0][1]
    assert second["reason"].startswith("the link went from ") and second["period"] > first["period"]
    # A review is asked for at the end of the period in which it is due, and its outcome taken a period later.
    assert CHANGE_AT < second["step"] <= CHANGE_AT + REVIEW_STEPS + 3 * first["period"]
    assert step_s(fresh[0]) / step_s(followed[0]) >= 0.9
    assert step_s(fresh[0]) < 1.2 * STEP_S, "the fresh run hides its transfers: the comparison means something"


@pytest.mark.lab
@pytest.mark.slow
def test_a_plan_that_the_user_fixed_stays(tmp_path):
    config = {"sync": {"period": 3, "delay": 1, "schedule": "stream"}, "compression": {"codec": "bf16"}}
    records = run(tmp_path, 100, 70, config, rate_changes=[("step 20.", 30)])
    assert [len(record["summary"]["plans"]) for record in records] == [1, 1]
