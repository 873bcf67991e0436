# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What trl's trainers gather of their metrics stays in the site, and another site's end is ours to tell."""

import json

import pytest

from tests.workers.launch import run_workers
from tests.workers.runs import WORKER, error_lines, train

pytest.importorskip("trl")
CONFIG = {"sync": {"period": 2, "delay": 1}, "compression": {"codec": "fp32"}, "resilience": {"patience_s": 6}}
TRL = ["--integration", "trainer", "--optimizer", "adamw", "--lr", "0.001", "--config", json.dumps(CONFIG)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two ranks at the first site, one at the second."""
    kinds = {kind: [*TRL, "--trl", kind, "--steps", "10", "--accumulate", "2"] for kind in ("sft", "dpo")}
    return train(tmp_path_factory.mktemp("trl"), kinds, sites=(2, 1))


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_metrics_are_gathered_in_the_site(runs, kind):
    run = runs[kind]
    assert run.is_agreed() and [record["world_collectives"] for record in run.records] == [0, 0, 0]
    logs = [[entry["entropy"] for entry in record["history"] if "entropy" in entry] for record in run.records]
    assert len(logs[0]) == 2 and logs[0] == logs[1] != logs[2]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    kinds = {kind: [*TRL, "--trl", kind, "--steps", "6"] for kind in ("sft", "dpo")}
    return train(tmp_path_factory.mktemp("trl-jobs"), kinds, sites=(2, 1), jobs=True)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_with_a_job_per_site_they_cannot_leave_it_and_no_seam_is_needed(jobs, kind):
    run = jobs[kind]
    assert run.is_agreed() and all(record["of_one_world"] == [] for record in run.records)
    logs = [[entry["loss"] for entry in record["history"] if "loss" in entry] for record in run.records]
    assert logs[0] == logs[1] != logs[2]


def test_a_lost_site_ends_a_trl_run_with_its_name_and_a_checkpoint(tmp_path):
    arguments = [WORKER, "--out", str(tmp_path), *TRL, "--trl", "sft"]
    survivor, lost = run_workers(arguments, per_rank={1: ["--die-at", "7"]}, timeout_s=100)
    assert (lost.returncode, survivor.returncode) == (-9, 3), survivor.output[-3000:]
    (line,) = error_lines(survivor)
    assert "site site1 (rank 1) is gone" in line and "Saved site0's model" in line
    assert list(tmp_path.glob("trainer/survivor-site0/checkpoint-*/model.safetensors"))
