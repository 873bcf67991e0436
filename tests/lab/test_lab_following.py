# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A link that changes while training runs: a run that follows it, one that begins afterwards, and one whose plan is
fixed, in one launch."""

import json
from itertools import pairwise
from statistics import fmean

import pytest

from geo_accel.lab import run_sites
from geo_accel.sync.planning import REVIEW_STEPS

pytestmark = pytest.mark.alone

CHANGE_AT, LAST = 40, 60
STEP_S = 0.08


# With fewer bits the plan would hide over either link, and an outer step may prefer a long period anyway.
OPEN = {"compression": {"codec": "bf16"}, "sync": {"outer": "mean"}}
FIXED = {"sync": {"period": 3, "delay": 1, "schedule": "stream"}, "compression": {"codec": "bf16"}}
RUNS = {"followed": (OPEN, CHANGE_AT + 2 * REVIEW_STEPS + 40 + LAST), "fresh": (OPEN, 40 + LAST), "fixed": (FIXED, 70)}
CHANGES = [(f"followed step {CHANGE_AT}.", 30), ("fixed step 20.", 100)]


@pytest.fixture(scope="module")
def records(python_m, tmp_path_factory):
    """Of each run, by site."""
    out, command = tmp_path_factory.mktemp("following"), [*python_m, "tests.workers.pace_worker"]
    for name, (config, steps) in RUNS.items():
        command += ["--steps", str(steps), "--out", str(out / name), "--step-s", str(STEP_S), "--values", "1200000"]
        command += ["--config", json.dumps(config), "--and"]
    result = run_sites(command[:-1], bandwidth_mbps=100, rate_changes=CHANGES, timeout_s=170)
    assert result.exit_code == 0 and result.stopped_by is None, result.sites[0].output[-3000:]
    return {name: [json.loads((out / name / f"rank-{rank}.json").read_text()) for rank in range(2)] for name in RUNS}


def step_s(record):
    """Mean step of the last steps of a run."""
    return fmean(b - a for a, b in pairwise(record["boundaries"][-LAST:]))


@pytest.mark.lab
@pytest.mark.slow
def test_a_lasting_change_is_followed_and_efficiency_recovers(records):
    followed, fresh = records["followed"], records["fresh"]
    plans = [record["summary"]["plans"] for record in followed]
    assert plans[0] == plans[1], "all sites adopt the same plans at the same steps"
    first, second = plans[0][0], plans[0][1]
    assert second["reason"].startswith("the link went from ") and second["period"] > first["period"]
    # A review is asked for at the end of the period in which it is due, and its outcome taken a period later.
    assert CHANGE_AT < second["step"] <= CHANGE_AT + REVIEW_STEPS + 3 * first["period"]
    assert step_s(fresh[0]) / step_s(followed[0]) >= 0.9
    assert step_s(fresh[0]) < 1.5 * STEP_S, "the fresh run hides its transfers: the comparison means something"


@pytest.mark.lab
@pytest.mark.slow
def test_a_plan_that_the_user_fixed_stays(records):
    assert [len(record["summary"]["plans"]) for record in records["fixed"]] == [1, 1]
