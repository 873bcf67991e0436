# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Trainer saves, evaluates and stops on all sites together, whoever asks, and what it writes is whole and agreed."""

import json

import pytest
import torch

from tests.workers.launch import run_workers
from tests.workers.runs import Run, distance
from tests.workers.saving_worker import weights_in

WORKER = "tests.workers.saving_worker"
EPOCHS = json.dumps({"save_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": 2})
SIGNALS = json.dumps({"enable_jit_checkpoint": True})
BEST = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
# The best evaluation loss is the highest: the first at a rate that throws the model off.
WORSE = {"metric_for_best_model": "loss", "greater_is_better": True}
DISKS = json.dumps({**BEST, "save_on_each_node": True, "load_best_model_at_end": True, **WORSE})
OWN = json.dumps({**BEST, "load_best_model_at_end": True})
STREAM = ["--stream", "--examples", "12", "--arguments", json.dumps({"save_strategy": "steps", "save_steps": 4})]


def commands(folder, rank):
    """What each of the two sites runs, one after another in one process."""

    def on(which, *words):
        return list(words) if rank == which else []

    disk = folder / f"disk-{rank}"
    whole = ["--dropout", "0.1", "--steps", "11", "--arguments", OWN]
    return {
        "both": ["--dropout", "0.1", "--ask", "on_log:4:should_save"],
        "one": [*on(1, "--ask", "on_log:4:should_save", "on_log:7:should_training_stop"), "--steps", "30"],
        "epochs": ["--private", "--steps", "-1", "--examples", "8" if rank else "40", "--arguments", EPOCHS],
        "streams": ["--stream", "--passes", "1", "--steps", "40", "--examples", "40" if rank else "20"],
        "sigterm": [*on(1, "--ask", "on_step_begin:4:sigterm"), "--steps", "30", "--arguments", SIGNALS],
        "model": ["--disk", str(disk / "model"), "--ask", "on_log:4:save_model"],
        "disks": ["--disk", str(disk / "disks"), "--steps", "6", "--lr", "0.5", "--arguments", DISKS],
        "own": ["--disk", str(disk / "own"), *whole],
        "stream": ["--dropout", "0.1", "--steps", "10", *STREAM],
        # Checkpoints of above, gone on with.
        "both-resumed": ["--dropout", "0.1", "--resume", str(folder / "both" / "trainer" / "checkpoint-*")],
        "own-resumed": [
            *("--disk", str(disk / "own-resumed"), *whole, "--resume", str(disk / "own" / "checkpoint-6")),
        ],
        "stream-resumed": [
            *("--dropout", "0.1", "--steps", "10", *STREAM),
            *("--resume", str(folder / "stream" / "trainer" / "checkpoint-4")),
        ],
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saving")
    per_rank = {}
    for rank in (0, 1):
        words = []
        for name, how in commands(folder, rank).items():
            words += [*how, "--out", str(folder / name), "--and"]
        per_rank[rank] = words[:-1]
    finished = run_workers([WORKER], (1, 1), 170, None, per_rank)
    assert [one.returncode for one in finished] == [0, 0], "\n".join(one.output[-3000:] for one in finished)
    return {"folder": folder} | {name: Run(folder / name) for name in commands(folder, 0)}


def saved(run):
    """Steps at which both sites saved, whose weights were the same."""
    first, second = (record["saved"] for record in run.records)
    assert first == second
    return [step for step, _ in first]


def test_callbacks_that_come_later_save_agreed_weights(runs):
    (step,) = saved(runs["both"])
    assert 4 <= step <= 9
    folder = runs["folder"] / "both" / "trainer" / f"checkpoint-{step}"
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= {path.name for path in folder.iterdir()}


def test_what_a_callback_saved_is_resumed_to_the_same_bits(runs):
    whole, resumed = runs["both"], runs["both-resumed"]
    assert distance(whole, resumed) == 0
    for a, b in zip(whole.records, resumed.records, strict=True):
        assert 0 < len(b["losses"]) < 9 and a["losses"][-len(b["losses"]) :] == b["losses"]


def test_one_sites_callback_saves_and_stops_on_both(runs):
    (step,) = saved(runs["one"])
    steps = {record["steps"] for record in runs["one"].records}
    assert 4 <= step < steps.pop() <= 20 and not steps
    assert runs["one"].is_agreed()


def test_private_data_of_unlike_size_is_saved_per_epoch_of_the_shorter(runs):
    assert saved(runs["epochs"]) == [4, 8]
    first, second = (record["evaluated"] for record in runs["epochs"].records)
    assert first == second and [step for step, _ in first] == [4, 8]
    assert [record["steps"] for record in runs["epochs"].records] == [8, 8]


def test_streams_of_unlike_length_end_together(runs):
    steps = {record["steps"] for record in runs["streams"].records}
    assert runs["streams"].is_agreed() and 5 <= steps.pop() < 10 and not steps


def test_a_signal_to_one_site_saves_both(runs):
    steps = {record["steps"] for record in runs["sigterm"].records}
    step = steps.pop()
    assert not steps and step < 30 and runs["sigterm"].is_agreed()
    (folder,) = (runs["folder"] / "sigterm" / "trainer").glob("checkpoint-*")
    assert folder.name == f"checkpoint-{step}"
    for name, value in weights_in(folder).items():
        assert torch.equal(value, runs["sigterm"].weights[1][name])


def test_a_model_that_is_saved_amid_training_is_the_agreed_one(runs):
    """Called between two flushes, it is written at the next boundary at which sites have averaged."""
    here, there = (weights_in(runs["folder"] / f"disk-{rank}" / "model" / "asked") for rank in (0, 1))
    assert all(torch.equal(value, there[name]) for name, value in here.items())
    assert any(not torch.equal(value, runs["model"].weights[0][name]) for name, value in here.items())


@pytest.mark.parametrize("name, steps", [("disks", (3, 6)), ("own", (3, 6, 9, 11))])
def test_every_disk_has_whole_checkpoints_and_the_model(runs, name, steps):
    for part in [f"checkpoint-{step}" for step in steps] + ["."]:
        here, there = (weights_in(runs["folder"] / f"disk-{rank}" / name / part) for rank in (0, 1))
        assert all(torch.equal(value, there[key]) for key, value in here.items())
    for rank in (0, 1):
        files = {path.name for path in (runs["folder"] / f"disk-{rank}" / name / "checkpoint-6").iterdir()}
        assert {"trainer_state.json", "optimizer.pt", f"rng_state_{rank}.pth", "geo_accel"} <= files
        assert not list((runs["folder"] / f"disk-{rank}" / name).glob(".geo_accel*"))


def test_the_best_model_is_loaded_from_every_sites_disk(runs):
    run = runs["disks"]
    losses = [loss for _, loss in run.records[0]["evaluated"]]
    assert losses[0] > losses[1] and losses == [loss for _, loss in run.records[1]["evaluated"]]
    for rank in (0, 1):
        best = weights_in(runs["folder"] / f"disk-{rank}" / "disks" / "checkpoint-3")
        assert all(torch.equal(value, run.weights[rank][name]) for name, value in best.items())


@pytest.mark.parametrize("name", ["own", "stream"])
def test_resumed_from_its_own_disk_and_in_a_streams_second_pass(runs, name):
    whole, resumed = runs[name], runs[f"{name}-resumed"]
    for a, b in zip(whole.records, resumed.records, strict=True):
        assert 0 < len(b["losses"]) < len(a["losses"]) and a["losses"][-len(b["losses"]) :] == b["losses"]
    assert distance(whole, resumed) == 0
