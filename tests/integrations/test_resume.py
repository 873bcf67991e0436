# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Save, kill, resume: the run that was interrupted ends with the bits of the one that was not."""

import json

import pytest

from geo_accel.testing.launch import run_workers
from geo_accel.testing.runs import WORKER, distance, error_lines, train

CONFIG = json.dumps(
    {
        "sync": {"period": 4, "delay": 2, "outer": {"type": "nesterov", "lr": 0.7, "momentum": 0.5}},
        "compression": {"codec": "bf16"},
    }
)
# 52 examples: epochs of 7 steps whose last has one micro-batch, checkpoints amid epoch and period.
COMMON = ["--config", CONFIG, "--optimizer", "adamw", "--lr", "0.003", "--accumulate", "2", "--clip", "1.0"]
COMMON += ["--dropout", "0.1", "--steps", "17", "--save-every", "5", "--examples", "52"]
CHECKPOINT = {"accelerate": "step-{}", "trainer": "trainer/checkpoint-{}"}


@pytest.fixture(scope="module", params=[(1, 1), (2, 2)], ids=["1+1", "2+2"])
def folder(request, tmp_path_factory):
    """Holds the uninterrupted runs, killed ones, and those that went on from the killed ones' last checkpoint."""
    folder, sites = tmp_path_factory.mktemp("resume"), request.param
    whole = {name: [*COMMON, "--integration", name] for name in CHECKPOINT}
    runs = train(folder / "whole", whole, sites)
    for name, arguments in whole.items():
        killed = [WORKER, *arguments, "--out", str(folder / "killed" / name), "--die-at", "12"]
        assert {finished.returncode for finished in run_workers(killed, sites)} == {-9}
    resumed = {
        name: [*arguments, "--resume", str(folder / "killed" / name / CHECKPOINT[name].format(10))]
        for name, arguments in whole.items()
    }
    return {"whole": runs, "resumed": train(folder / "resumed", resumed, sites), "path": folder}


@pytest.mark.parametrize("name", CHECKPOINT)
def test_resumed_is_bit_identical_to_uninterrupted(folder, name):
    whole, resumed = folder["whole"][name], folder["resumed"][name]
    assert distance(whole, resumed) == 0
    for a, b in zip(whole.records, resumed.records, strict=True):
        assert 0 < len(b["losses"]) < len(a["losses"])
        assert a["losses"][-len(b["losses"]) :] == b["losses"]  # data order and dropout masks included
        assert a["before_flush"] == b["before_flush"]  # the rounds in between too
        assert a["summary"]["plan"] == b["summary"]["plan"]


def broken(folder, tmp_path, break_it):
    """Runs Accelerate from a checkpoint that `break_it` has spoilt; returns the ranks' results."""
    import shutil

    checkpoint = tmp_path / "step-10"
    shutil.copytree(folder["path"] / "killed" / "accelerate" / "step-10", checkpoint)
    break_it(checkpoint / "geo_accel")
    sites = (1, 1)
    return run_workers([WORKER, *COMMON, "--out", str(tmp_path / "out"), "--resume", str(checkpoint)], sites)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkpoint of two sites of one rank."""
    path = tmp_path_factory.mktemp("plain")
    train(path / "killed", {"accelerate": COMMON}, (1, 1))
    return {"path": path}


@pytest.mark.parametrize(
    "break_it, problem",
    [
        (lambda state: (state / "rank-1.json").unlink(), "not of one step on all ranks (rank 0: 10, rank 1: None"),
        (lambda state: (state / "rank-1.json").write_text("{"), "rank 1: rank-1.json is not readable"),
        (lambda state: next(state.glob("site1.*.pt")).unlink(), "site1.step-10.pt is missing"),
        (
            lambda state: (state / "rank-0.json").write_text(
                (state / "rank-0.json").read_text().replace('"transformer.wte": ', '"transformer.wte": 1')
            ),
            "the weights of transformer.wte are not those of step 10",
        ),
    ],
    ids=["missing", "truncated", "incomplete", "other weights"],
)
def test_a_spoilt_checkpoint_is_refused_in_one_line(plain, tmp_path, break_it, problem):
    for finished in broken(plain, tmp_path, break_it):
        assert finished.returncode == 2
        lines = error_lines(finished)
        assert len(lines) == 1 and problem in lines[0]
