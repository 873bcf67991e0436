# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""`geo-accel profile`, alone and on two sites, and what plan makes of it."""

import json

import pytest
import torch

from geo_accel.commands.main import main
from geo_accel.profile.profile import read_profile
from tests.workers.launch import run_workers

SMALL = ["--model", "gpt2", "--config-overrides", "n_layer=2,n_embd=32,n_head=4,vocab_size=50"]
SMALL += ["--batch", "2", "--sequence", "16"]


def test_one_process_measures_the_layers_and_plan_reads_them(tmp_path, capsys):
    path = tmp_path / "profile.json"
    assert main(["profile", *SMALL, "--micro-batches", "2", "--output", str(path)]) == 0
    assert "transformer.h.1" in capsys.readouterr().out
    profile = read_profile(path)
    assert [unit.name for unit in profile.units][-1] == "transformer.wte"
    assert all(unit.backward_s > 0 for unit in profile.units) and profile.links == ()
    facts = profile.provenance
    assert (facts["batch_shape"], facts["micro_batches"], facts["model"]) == ([2, 16], 2, "gpt2")
    arguments = ["plan", "--profile", str(path), "--bandwidth-mbps", "10", "--latency-ms", "1", "--json"]
    assert main(arguments) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["period"] >= 1 and plan["step_s"] >= plan["compute_s"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [False, True], ids=["one job", "a job per site"])
def test_two_sites_measure_their_links_too(tmp_path, jobs):
    path = tmp_path / "profile.json"
    command = ["geo_accel.commands.main", "profile", *SMALL, "--pairs", "--output", str(path)]
    for finished in run_workers(command, timeout_s=100, jobs=jobs):
        assert finished.returncode == 0, finished.output[-2000:]
    profile = read_profile(path)
    assert [site for site, _ in profile.links] == ["site0", "site1"]
    assert profile.pairs[0][:2] == ("site0", "site1")
    assert all(link.megabits_per_second > 10 for _, link in profile.links)
    # On CPUs the training thread encodes what is dense, and the background thread what is sparse.
    assert profile.handling["bf16"].training_s > 0 and profile.handling["topk"].background_s > 0
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--model", "gpt2", "--batch", "0"], "--batch: got 0; allowed: 1 or more"),
        (["--model", "gpt2", "--sequence", "5000"], "--sequence: got 5000; gpt2 takes at most 1024 tokens"),
        (["--model", "gpt2", "--config-overrides", "n_layer"], "'n_layer' is no KEY=NUMBER"),
        (["--model", "gpt2", "--config-overrides", "layers=2"], "GPT2Config has no layers"),
        (["--model", "/nowhere/model"], "--model /nowhere/model: its config cannot be had"),
        pytest.param(
            ["--model", "gpt2", "--device", "cuda"],
            "--device cuda: torch sees no accelerator here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an accelerator"),
        ),
        (["--model", "gpt2", "--output", "/nowhere/profile.json"], "the folder does not exist"),
        ([*SMALL[:3], "n_embd=30,n_head=4"], "no causal language model comes of it"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["profile", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
