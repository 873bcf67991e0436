# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Plans that change while training runs, between real processes over a link that is slowed down inside them."""

import json

import pytest

from geo_accel.sync.planning import REVIEW_STEPS
from geo_accel.testing.launch import run_workers


@pytest.fixture(scope="module", params=[(1, 1), (2, 2), (2, 1)], ids=str)
def records(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("followed")
    command = ["geo_accel.testing.engine_worker", str(out), "followed"]
    for rank, finished in enumerate(run_workers(command, sites=request.param, timeout_s=150)):
        assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
    return [json.loads((out / f"followed.rank-{rank}.json").read_text()) for rank in range(sum(request.param))]


def test_all_ranks_adopt_the_same_plans_at_the_same_steps(records):
    assert all(record["plans"] == records[0]["plans"] for record in records)
    assert all(record["bits"] == records[0]["bits"] for record in records)


def test_a_slower_link_is_followed_within_an_interval(records):
    assert records[0]["link_mbps"] == pytest.approx(40, rel=0.25)
    if len(records) > 2:
        return  # the period is stated there
    first, *later = records[0]["plans"]
    slower = next(plan for plan in later if "the link went from" in plan["reason"] and plan["step"] > 40)
    assert slower["step"] <= 40 + REVIEW_STEPS + 3 * first["period"]
    assert slower["period"] > first["period"]
