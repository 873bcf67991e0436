# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Accelerate's checkpoints hold all of a site's state, whatever was prepared, and say so only where it is true."""

import json

import pytest
import torch

from tests.workers.launch import run_workers


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Records of both sites, on one machine."""
    out = tmp_path_factory.mktemp("checkpoints")
    finished = run_workers(["tests.workers.checkpoint_worker", "--out", str(out)], (2,), 100)
    records = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert [one.returncode for one in finished] == [-9, 3], [one.output[-3000:] for one in finished]
    return {"path": out, "records": records, "survivor": records[1]}


def line(runs, scenario):
    """What both sites were told, word for word."""
    first, second = (record[scenario] for record in runs["records"])
    assert first == second and "\n" not in first
    return first


def test_each_site_resumes_with_its_own_state_to_the_same_bits(runs):
    a, b = runs["records"]
    assert a["moments at 3"] != b["moments at 3"]  # else there is nothing to tell apart
    for record in (a, b):
        assert record["resumed at 3"] == record["moments at 3"]
        assert record["resumed"] == record["whole"]


def test_every_geosync_has_a_folder_and_every_site_its_files(runs):
    names = {str(path.relative_to(runs["path"] / "step-3")) for path in (runs["path"] / "step-3").glob("geo_*/*")}
    assert names == {
        f"{folder}/{name}"
        for folder in ("geo_accel", "geo_accel_1")
        for name in ("a.0.json", "b.0.json", "a.step-3.pt", "b.step-3.pt")
    }


def test_a_model_is_saved_as_all_agree_on_it(runs):
    assert [record["save_model"] for record in runs["records"]] == [True, True]


def test_a_full_disk_on_one_site_is_told_on_all(runs):
    said = line(runs, "full")
    assert said.startswith("OSError: ") and "b (rank 1): " in said and "File too large" in said


def test_the_last_one_gives_the_accelerator_its_methods_back(runs):
    assert [record["given back"] for record in runs["records"]] == [True, True]


def test_a_list_of_models_is_told_what_to_do(runs):
    assert "model= is a list of 2: construct one GeoSync per model" in line(runs, "list")


def test_loading_before_there_is_a_geosync_is_refused(runs):
    assert "construct GeoSync first, then call accelerator.load_state" in line(runs, "early")


@pytest.mark.parametrize("name", ["model_1.safetensors", "optimizer_1.bin", "random_states_1.pkl"])
def test_a_damaged_file_of_accelerates_is_named_on_all_ranks(runs, name):
    assert f"{name} is damaged" in line(runs, name)


def test_a_lost_site_is_named_whether_or_not_the_survivor_can_save(runs):
    said, folder_is_there, left_over = runs["survivor"]["lost, disk full"]
    assert said.startswith("site a (rank 0) is gone") and "File too large" in said
    assert said.count("could not be saved") == 1 and "Saved" not in said and not folder_is_there and left_over == []
    said, folder = runs["survivor"]["lost"], runs["path"] / "survivor-b"
    assert said.startswith("RuntimeError: site a (rank 0) is gone") and "Saved b's model and optimizer at step" in said
    assert said.endswith(f" in {folder}.")


def test_a_survivor_keeps_all_models_and_all_optimizers(runs):
    folder = runs["path"] / "survivor-b"
    state = torch.load(folder / "state.pt", weights_only=True)
    assert set(state) == {"optimizer", "optimizer_1", "optimizer_2", "scheduler", "custom_checkpoint"}
    assert {path.name for path in folder.iterdir()} == {"model.pt", "model_1.pt", "state.pt"}
