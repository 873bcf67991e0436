# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites that differ, stay away, fall silent or die: named, in time, with nothing lost."""

import json
import time

import pytest

from tests.workers.launch import run_workers
from tests.workers.runs import WORKER, Run, error_lines

IMPATIENT = json.dumps(
    {"sync": {"period": 2, "delay": 1}, "compression": {"codec": "fp32"}, "resilience": {"patience_s": 6}}
)
BACKWARD = json.dumps(
    {
        "sync": {"mode": "backward", "schedule": "equal", "period": 2},
        "compression": {"codec": "fp32"},
        "resilience": {"patience_s": 6},
    }
)


SHORT = IMPATIENT.replace('"patience_s": 6', '"patience_s": 3')


def launch(tmp_path, *arguments, per_rank=None, sites=(1, 1)):
    return run_workers([WORKER, "--out", str(tmp_path), *arguments], sites=sites, per_rank=per_rank, timeout_s=100)


def only_line(finished, code):
    assert finished.returncode == code, finished.output[-3000:]
    lines = error_lines(finished)
    assert len(lines) == 1 and "Traceback" not in finished.output, finished.output[-3000:]
    return lines[0]


@pytest.mark.parametrize(
    "integration, dead, config",
    [("accelerate", 0, IMPATIENT), ("trainer", 0, IMPATIENT), ("accelerate", 1, BACKWARD), ("trainer", 1, BACKWARD)],
)
def test_survivors_of_a_dead_site_stop_and_keep_their_work(tmp_path, integration, dead, config):
    finished = launch(tmp_path, "--integration", integration, "--config", config, per_rank={dead: ["--die-at", "7"]})
    survivor = 1 - dead
    assert finished[dead].returncode == -9
    line = only_line(finished[survivor], 3)
    assert f"site site{dead} (rank {dead}) is gone" in line and f"Saved site{survivor}'s model" in line
    saved = list(tmp_path.glob(f"**/survivor-site{survivor}/**/*"))
    assert {"model.safetensors", "optimizer.pt"} <= {path.name for path in saved} or {"model.pt", "state.pt"} <= {
        path.name for path in saved
    }


def test_a_survivors_checkpoint_can_be_resumed_by_trainer(tmp_path):
    launch(tmp_path / "a", "--integration", "trainer", "--config", IMPATIENT, per_rank={0: ["--die-at", "7"]})
    checkpoint = next((tmp_path / "a").glob("**/survivor-site1/checkpoint-*"))
    finished = launch(tmp_path / "b", "--integration", "trainer", "--config", IMPATIENT, "--resume", str(checkpoint))
    assert [f.returncode for f in finished] == [0, 0], finished[0].output[-3000:]
    run = Run(tmp_path / "b")
    assert run.is_agreed() and run.records[0]["steps"] == 20


def test_a_silent_site_is_named_within_the_timeout(tmp_path):
    start = time.monotonic()
    finished = launch(tmp_path, "--config", SHORT, per_rank={1: ["--hang-at", "7", "--hang-s", "8"]})
    line = only_line(finished[0], 3)
    assert "site site1 (rank 1) has been silent for 3 s" in line
    assert time.monotonic() - start < 60


def test_a_site_that_does_not_come_is_named_with_the_time_waited(tmp_path):
    finished = launch(tmp_path, "--config", SHORT, per_rank={1: ["--late-s", "8"]})
    assert "waited 3 s (resilience.patience_s) for rank 1" in only_line(finished[0], 3)


@pytest.mark.parametrize("integration", ["accelerate", "trainer"])
def test_different_configs_are_named_before_the_first_step(tmp_path, integration):
    configs = {rank: ["--config", json.dumps({"sync": {"period": 2 + rank}})] for rank in (0, 1)}
    for finished in launch(tmp_path, "--integration", integration, per_rank=configs):
        line = only_line(finished, 2)
        assert "site0 (rank 0) and site1 (rank 1) differ" in line and "sync.period: 2 against 3" in line


def test_different_initial_weights_are_named_before_the_first_step(tmp_path):
    """With Trainer, which wraps the model when training begins; `accelerator.prepare` copies rank 0's to all."""
    for finished in launch(tmp_path, "--integration", "trainer", "--unequal-start"):
        assert "initial weights of transformer.wte and" in only_line(finished, 2)


def test_sites_that_do_not_fit_the_ranks(tmp_path):
    for finished in launch(tmp_path, "--config", '{"sites": [3]}'):
        assert "sites = [3] makes 3 ranks, but 2 were launched" in only_line(finished, 2)


def test_a_model_without_trainable_parameters(tmp_path):
    for finished in launch(tmp_path, "--integration", "trainer", "--model", "frozen"):
        assert "no trainable parameters" in only_line(finished, 2)


@pytest.mark.parametrize(
    "config, problem",
    [
        ('{"sync": {"perod": 4}}', "period"),
        ('{"sync": {"period": 0}}', "sync.period"),
        ('{"compression": {"codec": "fp8"}}', "fp8"),
        ('{"sync": {"period": 2, "delay": 3}}', "delay"),
    ],
)
def test_a_bad_config_is_refused_without_a_second_process(tmp_path, config, problem):
    (finished,) = launch(tmp_path, "--config", config, sites=(1,))
    assert problem in only_line(finished, 2)


def test_one_process_trains_locally_and_says_so(tmp_path):
    (finished,) = launch(tmp_path, "--steps", "3", sites=(1,))
    assert finished.returncode == 0 and "geo_accel is off: this is a single process" in finished.output


def test_one_machine_is_one_site_and_says_so(tmp_path):
    finished = launch(tmp_path, "--steps", "3", sites=(2,))
    assert all(f.returncode == 0 for f in finished)
    assert "all 2 ranks are on one machine" in finished[0].output and "GEO_ACCEL_SITE" in finished[0].output
