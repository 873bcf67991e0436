# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Save, kill, resume: the run that was interrupted ends with the bits of the one that was not."""

import json
import shutil

import pytest

from tests.workers.launch import run_workers
from tests.workers.runs import WORKER, Run, distance, error_lines, train

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


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of a run of two sites of one rank."""
    path = tmp_path_factory.mktemp("plain")
    return train(path, {"run": COMMON}, (1, 1)) and path / "run"


def copy_of(checkpoint, path, change):
    """A copy to spoil; the folder's name says the step."""
    shutil.copytree(checkpoint, path / checkpoint.name)
    change(path / checkpoint.name)
    return ["--resume", str(path / checkpoint.name)]


def refused(finished):
    assert finished.returncode == 2, finished.output[-3000:]
    (line,) = error_lines(finished)
    return line


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (lambda folder: cut(folder / "geo_accel" / "site1.step-10.pt"), "site1 (rank 1): site1.step-10.pt is damaged"),
        (
            lambda folder: shutil.copy(folder.parent / "step-5.safetensors", folder / "model.safetensors"),
            "are not those of step 10",
        ),
    ],
    ids=["cut off", "other weights"],
)
def test_a_spoilt_checkpoint_is_refused_in_one_line(plain, tmp_path, spoil, problem):
    shutil.copy(plain / "step-5" / "model.safetensors", tmp_path / "step-5.safetensors")
    resume = copy_of(plain / "step-10", tmp_path, spoil)
    for finished in run_workers([WORKER, *COMMON, "--out", str(tmp_path / "out"), *resume], (1, 1)):
        assert problem in refused(finished)


def test_with_another_number_of_sites_one_may_start_afresh_as_the_line_says(plain, tmp_path):
    afresh = copy_of(plain / "step-10", tmp_path / "afresh", lambda folder: shutil.rmtree(folder / "geo_accel"))
    as_it_is = copy_of(plain / "step-10", tmp_path / "whole", lambda folder: None)
    first = [*COMMON, "--out", str(tmp_path / "out"), *afresh]
    then = [*COMMON, "--out", str(tmp_path / "refused"), *as_it_is]
    for finished in run_workers([WORKER, *first, "--and", *then], (1, 1, 1)):
        line = refused(finished)
        assert "saved by the sites site0 (1 rank), site1 (1 rank); this run has" in line
        assert f"start afresh from its weights, move the folder {as_it_is[1]}/geo_accel away" in line
    run = Run(tmp_path / "out")
    assert run.is_agreed() and run.records[0]["summary"]["steps"] == 7
