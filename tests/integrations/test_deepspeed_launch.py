# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""DeepSpeed as Accelerate and Trainer start it, with the JSON files that users start from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.workers.runs import Run, distance, train

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]
pytest.importorskip("deepspeed")

FOLDER = Path(__file__).parents[2] / "ds_configs"
FILES = sorted(FOLDER.glob("*.json"))
# Through Accelerate, as launchers ask for it; without it TrainingArguments say so themselves.
ENVIRON = {
    "ACCELERATE_USE_CPU": "false",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "DS_ACCELERATOR": "cpu",
    "LOCAL_SIZE": "1",
}
ROUNDS = {"sync": {"period": 2, "delay": 1, "schedule": "equal", "outer": "mean"}, "compression": {"codec": "fp32"}}
HOW = ["--optimizer", "adamw", "--lr", "1e-3", "--steps", "8", "--clip", "1.0", "--save-every", "5"]
# A rate that throws the model off, so that the highest loss is the first.
BEST = ["--lr", "0.3", "--save-every", "4", "--evaluate-every", "4", "--load-best", "--highest-is-best"]
CHECKPOINTS = {"geo_zero3": "trainer/checkpoint-5", "accelerate-1": "step-5"}


def written(folder: Path, name: str, path: Path, block: dict) -> str:
    """A user's file, with another block: sites connect once, so all runs of a launch need the same deadlines."""
    told = json.loads(path.read_text()) | {"geo_accel": block}
    out = folder / f"{name}.json"
    out.write_text(json.dumps(told))
    return str(out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run | Path]:
    folder = tmp_path_factory.mktemp("launched")
    wanted = {}
    for path in FILES:
        block = {key: part for key, part in json.loads(path.read_text())["geo_accel"].items() if key != "resilience"}
        # As it stands in the file, or where that leaves all open in few steps what can be compared.
        file = written(folder, path.stem, path, block or ROUNDS)
        wanted[path.stem] = ["--integration", "trainer", "--deepspeed", file, *HOW]
    for stage in (1, 3):
        file = written(folder, f"accelerate-{stage}", FOLDER / f"geo_zero{stage}.json", ROUNDS)
        wanted[f"accelerate-{stage}"] = ["--integration", "accelerate", "--deepspeed", file, *HOW]
    for stage in (1, 3):
        wanted[f"best-{stage}"] = [*wanted[f"geo_zero{stage}"], *BEST]
    for name, checkpoint in CHECKPOINTS.items():
        wanted[f"{name} resumed"] = [*wanted[name], "--resume", str(folder / name / checkpoint)]
    return {"folder": folder} | train(folder, wanted, environ=ENVIRON, timeout_s=170)


@pytest.mark.parametrize("name", [*(path.stem for path in FILES), "accelerate-1", "accelerate-3"])
def test_sites_train_with_every_file_and_agree(runs, name):
    run = runs[name]
    assert run.is_agreed()
    losses = [record["losses"] for record in run.records]
    assert [len(one) for one in losses] == [8, 8] and losses[0] != losses[1]
    assert all(record["summary"]["wan_bytes"] > 0 for record in run.records)
    assert [record["world_collectives"] for record in run.records] == [0, 0]


def test_every_stage_and_both_ways_train_alike(runs):
    first = runs["geo_zero0"]
    for name in ("geo_zero1", "geo_zero2", "geo_zero3", "geo_zero2_offload"):
        for one, other in zip(first.records, runs[name].records, strict=True):
            assert one["losses"] == pytest.approx(other["losses"], abs=1e-4)
    for one, other in zip(runs["accelerate-1"].records, runs["accelerate-3"].records, strict=True):
        assert one["losses"] == pytest.approx(other["losses"], abs=1e-4)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_resumed_run_ends_with_the_same_bits(runs, name):
    whole, resumed = runs[name], runs[f"{name} resumed"]
    for before, after in zip(whole.records, resumed.records, strict=True):
        assert after["losses"] == before["losses"][5:]
    assert resumed.is_agreed() and distance(whole, resumed) == 0


@pytest.mark.parametrize("stage", [1, 3])
def test_the_best_model_is_what_is_left(runs, stage):
    run = runs[f"best-{stage}"]
    losses = [[entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry] for record in run.records]
    assert losses[0] == losses[1] and losses[0][0] > losses[0][1]
    best = load_file(runs["folder"] / f"best-{stage}" / "trainer" / "checkpoint-4" / "model.safetensors")
    left = run.weights[0]
    same = [torch.equal(value.float(), left[name].float()) for name, value in best.items() if name in left]
    assert all(same) and len(same) > 10 and run.is_agreed()
    assert run.records[0]["summary"]["steps"] == 8
