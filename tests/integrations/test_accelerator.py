# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites whose models are on an accelerator, which they share: snapshots on a side stream, results uploaded."""

import json
from statistics import fmean

import pytest
import torch

from tests.workers.launch import run_workers
from tests.workers.runs import distance, train

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(400),
]

MOVING = ["moving", "moving_bf16", "moving_int8", "moving_int2", "moving_topk", "moving_randk"]
QUIET = ["quiet", "quiet_nesterov", "quiet_blocking", "quiet_topk"]
SCENARIOS = [*MOVING, "moving_buffer", "stream", "stream_late", "blocking", "unequal", *QUIET, "not_finite"]


@pytest.fixture(scope="module", params=[(1, 1), (2, 2)], ids=["1+1", "2+2"])
def records(request, tmp_path_factory):
    """By scenario, then by rank."""
    out = tmp_path_factory.mktemp("engine")
    command = ["tests.workers.engine_worker", str(out), *SCENARIOS]
    finished = run_workers(command, request.param, timeout_s=300, environ={"ENGINE_WORKER_DEVICE": "cuda"})
    for rank, one in enumerate(finished):
        assert one.returncode == 0, f"rank {rank}:\n{one.output[-3000:]}"
    return {
        name: [json.loads((out / f"{name}.rank-{rank}.json").read_text()) for rank in range(sum(request.param))]
        for name in SCENARIOS
    }


def test_all_ranks_hold_the_same_bits_after_a_flush(records):
    for name in SCENARIOS[:-1]:
        assert all(record["bits"] == records[name][0]["bits"] for record in records[name]), name


def test_no_progress_is_lost_or_counted_twice(records):
    for name in MOVING:
        assert all(record["error"] < 1e-5 for record in records[name]), name


def test_weights_that_nobody_moves_converge_to_the_mean(records):
    for record in (*records["stream"], *records["stream_late"], *records["blocking"]):
        assert record["distances"][0] > 0.1 and record["distances"][-1] < 1e-6 and record["settled"] < 1e-6


def test_anchors_agree_over_200_rounds_with_unequal_ratios(records):
    carrying = [record["anchors"] for record in records["unequal"]]
    half = len(carrying) // 2
    assert len(set(carrying[0])) > 10 and carrying[:half] == carrying[half:]


@pytest.mark.parametrize("name", QUIET)
def test_the_training_thread_waits_for_no_kernel_and_nothing_stays_on_the_accelerator(records, name):
    for record in records[name]:
        assert record["waits"] == [[]] * 12 and record["noticed"] > 0 and record["bytes"] > 1000
        assert max(record["left"]) <= 0  # anchor, velocity and residual are the host's


def test_the_same_run_ends_with_the_same_bits(records, tmp_path):
    sites = (1, 1) if len(records["stream"]) == 2 else (2, 2)
    command = ["tests.workers.engine_worker", str(tmp_path), *MOVING]
    finished = run_workers(command, sites, timeout_s=200, environ={"ENGINE_WORKER_DEVICE": "cuda"})
    assert [one.returncode for one in finished] == [0] * sum(sites), finished[0].output[-3000:]
    for name in MOVING:
        again = json.loads((tmp_path / f"{name}.rank-0.json").read_text())
        assert again["bits"] == records[name][0]["bits"], name


def test_what_is_not_finite_is_named(records):
    assert records["not_finite"][0]["said"].startswith("ValueError") and "finite" in records["not_finite"][0]["said"]
    assert all(record["moved"] == 0 for record in records["not_finite"])


EVERY_STEP = json.dumps({"sync": {"mode": "blocking", "period": 1}, "compression": {"codec": "fp32"}})
STREAM = json.dumps({"sync": {"period": 4, "outer": "mean"}, "compression": {"codec": "int8"}})
ON_IT = {"ACCELERATE_USE_CPU": "false"}
STEPS = ["--steps", "20", "--accumulate", "2", "--lr", "0.05"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("accelerator")


@pytest.fixture(scope="module")
def runs(folder):
    return train(
        folder,
        {
            "ddp": [*STEPS, "--method", "ddp"],
            "geo": [*STEPS, "--config", EVERY_STEP],
            "trainer-ddp": [*STEPS, "--integration", "trainer", "--method", "ddp"],
            "trainer-geo": [*STEPS, "--integration", "trainer", "--config", EVERY_STEP],
            "stream": [*STEPS, "--config", STREAM, "--save-every", "10"],
            "auto": [*STEPS, "--steps", "40"],
        },
        environ=ON_IT,
        timeout_s=300,
    )


def learned(run):
    losses = run.records[0]["losses"]
    return fmean(losses[-5:]) < fmean(losses[:5])


@pytest.mark.parametrize("integration", ["", "trainer-"])
def test_averaging_every_step_losslessly_is_ddp(runs, integration):
    assert distance(runs[f"{integration}ddp"], runs[f"{integration}geo"]) < 1e-5


def test_sites_agree_in_the_end_and_say_nothing_else(runs):
    for name in ("geo", "trainer-geo", "stream", "auto"):
        assert runs[name].is_agreed(), name
        assert [record["world_collectives"] for record in runs[name].records] == [0, 0], name
        assert learned(runs[name]), name


def test_autocast_to_bf16(tmp_path):
    settings = ["--config", STREAM, "--bf16", "--optimizer", "adamw", "--lr", "0.001"]
    found = train(tmp_path, {"bf16": [*STEPS, *settings]}, environ=ON_IT, timeout_s=300)["bf16"]
    assert found.is_agreed() and learned(found)


def test_a_run_goes_on_where_it_was(runs, folder, tmp_path):
    resume = ["--resume", str(folder / "stream" / "step-10")]
    resumed = train(tmp_path, {"resumed": [*STEPS, "--config", STREAM, *resume]}, environ=ON_IT, timeout_s=300)
    assert resumed["resumed"].is_agreed() and distance(resumed["resumed"], runs["stream"]) < 1e-6
