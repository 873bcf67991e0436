# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Mode "backward" between real processes, beside a copy of the model that a plain collective averages."""

import json

import pytest

from tests.workers.launch import run_workers

BEFORE_UPDATE = ["backward", "backward_reentrant", "backward_measured"]
LAUNCHES = {
    "1+1": ((1, 1), [*BEFORE_UPDATE, "optimizer_in_backward"]),
    "2+2": ((2, 2), BEFORE_UPDATE),
}


@pytest.fixture(scope="module", params=LAUNCHES)
def records(request, tmp_path_factory):
    sites, scenarios = LAUNCHES[request.param]
    out = tmp_path_factory.mktemp("backward")
    command = ["tests.workers.engine_worker", str(out), *scenarios]
    for rank, finished in enumerate(run_workers(command, sites=sites, timeout_s=150)):
        assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
    return {
        name: [json.loads((out / f"{name}.rank-{rank}.json").read_text()) for rank in range(sum(sites))]
        for name in scenarios
    }


def test_every_step_equals_averaging_before_the_update_and_the_update_after_backward(records):
    """With accumulation, recomputed activations (both kinds), a tied weight and a layer that gets no gradient."""
    for name, ranks in records.items():
        for record in ranks:
            assert max(record["distances"]) < 1e-6, name


def test_averaging_did_something_and_clipping_saw_the_whole_gradient(records):
    for name in BEFORE_UPDATE:
        for record in records[name]:
            assert record["changed"] >= 3 and record["norm_error"] < 1e-6, name


def test_all_ranks_hold_the_same_bits_after_a_flush(records):
    for ranks in records.values():
        assert all(record["bits"] == ranks[0]["bits"] for record in ranks)


def test_updates_inside_backward_are_refused_where_gradients_are_reduced_later(tmp_path):
    command = ["tests.workers.engine_worker", str(tmp_path), "optimizer_in_backward"]
    for finished in run_workers(command, sites=(2, 1), timeout_s=60):
        assert finished.returncode != 0
        assert "sync.optimizer_in_backward: sites of one process only" in finished.output
