# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where geo_accel must be the same as what people know: DDP, LocalSGD."""

import json

import pytest

from geo_accel.transport.identity import HEADER_BYTES
from tests.workers.runs import distance, train

EVERY_STEP = json.dumps({"sync": {"mode": "blocking", "period": 1}, "compression": {"codec": "fp32"}})
LOCAL_SGD = json.dumps(
    {"sync": {"mode": "blocking", "period": 4, "schedule": "full"}, "compression": {"codec": "fp32"}}
)
STEPS = ["--steps", "20", "--accumulate", "2", "--lr", "0.05"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return train(
        tmp_path_factory.mktemp("equivalence"),
        {
            "ddp": [*STEPS, "--method", "ddp"],
            "geo": [*STEPS, "--config", EVERY_STEP],
            "trainer-ddp": [*STEPS, "--integration", "trainer", "--method", "ddp"],
            "trainer-geo": [*STEPS, "--integration", "trainer", "--config", EVERY_STEP],
            "local-sgd": ["--steps", "10", "--method", "local_sgd", "--local-sgd-steps", "4"],
            "geo-local-sgd": ["--steps", "10", "--config", LOCAL_SGD],
            "alone": ["--steps", "10", "--method", "none"],
        },
    )


@pytest.mark.parametrize("integration", ["", "trainer-"])
def test_averaging_every_step_losslessly_is_ddp(runs, integration):
    assert distance(runs[f"{integration}ddp"], runs[f"{integration}geo"]) < 1e-6


def test_blocking_full_is_accelerates_local_sgd(runs):
    assert distance(runs["local-sgd"], runs["geo-local-sgd"]) < 1e-6
    assert distance(runs["geo-local-sgd"], runs["alone"]) > 1e-4  # and is not nothing


def test_all_sites_end_with_the_same_bits(runs):
    for name in ("geo", "trainer-geo", "geo-local-sgd"):
        assert runs[name].is_agreed(), name


def test_nothing_crosses_sites_but_the_plan(runs):
    """Counted by gloo on the group of all ranks, below DDP, Accelerate and Trainer; DDP shows that counting works."""
    for name in ("geo", "trainer-geo", "geo-local-sgd"):
        assert [record["world_collectives"] for record in runs[name].records] == [0, 0], name
    for name in ("ddp", "trainer-ddp", "local-sgd"):
        assert all(record["world_collectives"] > 0 for record in runs[name].records), name


def test_wan_bytes_are_the_plans(runs):
    """Each period sends the model once, losslessly with a header, and so does the flush (10 is no multiple of 4)."""
    weights = runs["geo-local-sgd"].weights[0]
    model = 4 * sum(tensor.numel() for name, tensor in weights.items() if name != "lm_head.weight")
    comparison = 24 + HEADER_BYTES  # of what sites hold once they are flushed
    assert [record["summary"]["wan_bytes"] for record in runs["geo-local-sgd"].records] == [
        3 * (model + HEADER_BYTES) + comparison
    ] * 2
