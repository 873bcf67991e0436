# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The demo itself, over a real shaped network, with a model small enough for a test; its targets and its picture."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from pydoc_data import topics

import pytest
from matplotlib.image import imread
from rich.console import Console
from transformers import AutoModelForCausalLM

import benchmarks.demo.__main__ as demo
from benchmarks.demo.course import FULL, LEAST_TURNS, METHODS, QUICK, targets
from benchmarks.demo.report import stretched
from benchmarks.kit.runner import RunFailed, run_batch
from benchmarks.kit.store import Store
from geo_accel.plan.cost import BYTES_PER_VALUE
from geo_accel.plan.plan import read_plan
from tests.processes import eventually, processes_with

TINY = replace(QUICK.job.setting, layers=2, width=64, heads=2, vocabulary=1024, batch=2)
SMALL = replace(QUICK, job=replace(QUICK.job, setting=TINY, steps=20), turns=LEAST_TURNS)
CHECKS = [(35, 6.60), (42, 6.50), (49, 6.42), (56, 6.36), (63, 6.32), (70, 6.30)]
"""DDP's held-out loss by step."""


def judged(efficiency=0.97, loss=6.328):
    """Which targets hold."""
    return [goal["held"] for goal in targets({"geo": {"efficiency": efficiency, "eval_loss": loss}}, CHECKS)]


def test_targets_fail_for_a_slow_build_a_forgetful_one_and_one_that_sends_nothing():
    assert judged() == [True, True, True]
    assert judged(efficiency=1 / 1.1) == [False, True, False]
    assert judged(loss=6.40) == [True, False, False] == judged(efficiency=1.0, loss=6.45)
    # Better than DDP ends: as many steps.
    assert targets({"geo": {"efficiency": 1.0, "eval_loss": 6.1}}, CHECKS)[1]["measured"] == 1


def test_turns_are_as_many_as_there_is_time_for():
    seconds = {"none": 0.3, "geo": 0.3, "local_sgd": 0.7, "ddp": 3.1}
    assert FULL.turns_that_fit(seconds, 6, 1e4) == FULL.turns
    assert LEAST_TURNS < (few := FULL.turns_that_fit(seconds, 6, 100.0)) < FULL.turns
    assert few * (7 * 0.6 + (7 * 0.7 + 9.3) / FULL.others_every) < 100
    assert FULL.turns_that_fit(seconds, 6, -50.0) == LEAST_TURNS


def test_loss_curve_takes_the_time_of_the_turns_not_of_a_run_in_a_better_minute():
    curve = stretched([(1.5, 4.0), (2.0, 3.5), (2.5, 2.0), (3.0, 0.5)], step_s=1.0, warmup=1)
    assert curve == [(3.0, 4.0), (4.0, 3.5), (5.0, 2.0), (6.0, 0.5)]


def test_without_namespaces_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(demo, "why_unavailable", lambda: "the command 'tc' was not found")
    assert demo.main() == 2
    assert (said := capsys.readouterr().err).count("\n") == 1 and "the command 'tc' was not found" in said


@pytest.mark.slow
@pytest.mark.lab
def test_all_methods_from_end_to_end(tmp_path, monkeypatch, forked_sites):
    monkeypatch.setattr(topics, "topics", dict(sorted(topics.topics.items())[::6]))
    stale = tmp_path / "summary.json"
    stale.write_text("of an earlier demo")
    summary = demo.demonstrate(SMALL, tmp_path, Console(quiet=True))
    assert stale.read_text() == json.dumps(summary, indent=1) + "\n"
    for key in ("step_s", "efficiency", "eval_loss", "wan_bytes_per_step"):
        assert set(summary[key]) == set(METHODS), key
    period, parameters = summary["plan"]["period"], summary["setting"]["parameters"]

    # What the kernel counted is what each method has to send, and headers.
    sent = summary["wan_bytes_per_step"]
    width = BYTES_PER_VALUE[summary["plan"]["codec"]]
    payload = {"ddp": 4 * parameters, "local_sgd": 4 * parameters / period, "geo": width * parameters / period}
    assert sent["none"] < 100
    for method, expected in payload.items():
        # A step's few small packets cost the same however little is in them: 1023 bytes were seen beside 3672.
        assert expected < sent[method] < 1.15 * expected + 1200, (method, sent[method], expected)

    # What the turns are run by is the first plan.
    plan = read_plan(tmp_path / "work" / "plan.json")
    assert json.loads(plan.to_json()) == summary["plan"]
    assert len(summary["efficiency_by_turn"]["geo"]) >= LEAST_TURNS

    # 100 Mbit/s are 12.5 MB/s: whatever the machine, DDP cannot be faster.
    assert summary["step_s"]["ddp"] > sent["ddp"] / 12.5e6
    assert summary["efficiency"]["none"] == 1.0
    # Untrained, the loss is log(1024) = 6.93.
    assert all(4.0 < loss < 6.8 for loss in summary["eval_loss"].values()), summary["eval_loss"]
    assert len(summary["targets"]) == 3
    picture = imread(tmp_path / "report.png")
    assert picture.shape[0] > 800 and picture.shape[1] > 1000 and picture[..., :3].std() > 0.05
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() == parameters


@pytest.mark.slow
@pytest.mark.lab
def test_a_failing_worker_shows_its_last_lines(tmp_path, forked_sites):
    with pytest.raises(RunFailed, match=r"DDP failed: site\d ended with 1(?s:.)*\[site\d\] .*material"):
        run_batch([replace(SMALL.job, method="ddp", steps=2)], Store(tmp_path), name="DDP")  # but no model


@pytest.mark.slow
@pytest.mark.lab
def test_control_c_ends_all_sites(tmp_path):
    folder, root = str(tmp_path), str(Path(demo.__file__).parents[2])
    workers = "-m benchmarks.kit.worker", folder
    variables = {**os.environ, "PYTHONPATH": root, "DEMO_QUICK": "1", "TMPDIR": folder}
    how = {"cwd": tmp_path, "env": variables, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.demo"], **how)
    try:
        assert eventually(lambda: len(processes_with(*workers)) >= 2, 120)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "all sites were ended" in said and "Traceback" not in said
    assert eventually(lambda: not processes_with(*workers), 10)
