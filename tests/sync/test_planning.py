# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Plans that change while training runs, between real processes over a link that is slowed down inside them."""

import json

import pytest

from geo_accel.sync.planning import REVIEW_STEPS
from tests.workers.launch import run_workers

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module", params=[(1, 1), (2, 2), (2, 1)], ids=str)
def records(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("followed")
    command = ["tests.workers.engine_worker", str(out), "followed"]
    for rank, finished in enumerate(run_workers(command, sites=request.param, timeout_s=150)):
        assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
    return [json.loads((out / f"followed.rank-{rank}.json").read_text()) for rank in range(sum(request.param))]


def test_all_ranks_adopt_the_same_plans_at_the_same_steps(records):
    assert all(record["plans"] == records[0]["plans"] for record in records)
    assert all(record["bits"] == records[0]["bits"] for record in records)


def test_steps_tell_whether_rounds_began_and_what_they_took_of_the_training_thread(records):
    for record in records:
        assert 0 < record["most_between_s"] < 0.25  # planning takes longer, and is no round's
        assert record["beside"] == records[0]["beside"] and {True} <= set(record["beside"])


def test_a_slower_link_is_followed_within_an_interval(records):
    assert records[0]["link_mbps"] == pytest.approx(40, rel=0.25)
    if len(records) > 2:
        return  # the period is stated there
    first, *later = records[0]["plans"]
    slower = next(plan for plan in later if "the link went from" in plan["reason"] and plan["step"] > 40)
    # A step takes 10 ms: a review's outcome is taken a dozen later.
    assert slower["step"] <= 40 + REVIEW_STEPS + 24 + 3 * first["period"]
    assert slower["period"] > first["period"]


def test_losses_small_rounds_and_epochs_are_followed(tmp_path):
    command = ["tests.workers.engine_worker", str(tmp_path), "damped", "warned", "small_rounds", "epochs"]
    for rank, finished in enumerate(run_workers(command, timeout_s=100)):
        assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
    damped, warned = (
        [json.loads((tmp_path / f"{name}.rank-{rank}.json").read_text()) for rank in (0, 1)]
        for name in ("damped", "warned")
    )
    for one, other in (damped, warned):
        assert one["bits"] == other["bits"] and one["outers"] == other["outers"]
    _, second = damped[0]["outers"][:2]
    assert 50 < second[0] <= 50 + 2 * REVIEW_STEPS + 4
    assert second[1].startswith("the loss rose from 2.001 to ")
    assert "under the outer step Nesterov, lr 0.9, momentum 0.8, now Nesterov, lr 0.95, momentum 0.4" in second[1]
    assert damped[0]["now"] == [0.95, 0.4] and not damped[0]["warned"]  # steady again, if at 3
    assert warned[0]["now"] == [0.9, 0.8] and len(warned[0]["outers"]) == 1
    assert "the loss rose from 2.001" in warned[0]["warned"][0] and 'sync.outer "mean"' in warned[0]["warned"][0]
    small, other = (json.loads((tmp_path / f"small_rounds.rank-{rank}.json").read_text()) for rank in (0, 1))
    assert not small["in_training_thread"]  # where a transport is for one thread, and a round may be on its way
    # Where others use the cores too, these small messages come late.
    assert small["before"] == pytest.approx(200, rel=0.4) and small["after"] == pytest.approx(40, rel=0.25)
    assert (small["before"], small["after"]) == (other["before"], other["after"])
    for rank in (0, 1):
        record = json.loads((tmp_path / f"epochs.rank-{rank}.json").read_text())
        # What was measured in the first epoch is known in the second; beside a running engine nothing is shared, and
        # the third goes on with the session that was made last, on which nothing was measured yet.
        assert record["planned"] == [9, 1, 9] and record["courses"] and record["kept"]
        assert record["reasons"][1].startswith("as before: ")
        assert record["held_up_s"][1] < 0.5 * record["held_up_s"][0]
