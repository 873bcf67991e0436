# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Mode "backward" and manual plans under Accelerate and Trainer."""

import json

import pytest

from geo_accel.plan.choose import choose_plan
from geo_accel.plan.members import Members
from geo_accel.plan.plan import read_plan
from geo_accel.plan.request import Request
from geo_accel.units import find_units
from tests.workers.launch import run_workers
from tests.workers.models import build_model
from tests.workers.runs import WORKER, distance, error_lines, train, windows_without

INTEGRATIONS = ["accelerate", "trainer"]


def config(codec="fp32", **sync):
    return json.dumps({"sync": sync, "compression": {"codec": codec}})


BACKWARD = config(mode="backward", schedule="full", period=1)
HARD = ["--steps", "12", "--accumulate", "2", "--clip", "0.5", "--checkpointing", "--lr", "0.05"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backward")
    plan = choose_plan(
        Request(mode="backward", schedule="equal", period=3, codec="bf16"),
        [(unit.name, unit.numel) for unit in find_units(build_model("gpt2"))],
        Members(2),
    )
    (folder / "plan.json").write_text(plan.to_json())
    manual = json.dumps({"sync": {"mode": "backward", "schedule": "manual", "plan": str(folder / "plan.json")}})
    cases = {"average first": [*HARD, "--method", "average_first"]}
    for integration in INTEGRATIONS:
        by = ["--integration", integration]
        cases |= {
            f"{integration} backward": [*by, *HARD, "--config", BACKWARD],
            f"{integration} dreamddp": [*by, "--steps", "24", "--config", config("auto", mode="backward", period=3)],
            f"{integration} manual": [*by, "--steps", "10", "--config", manual],
            f"{integration} published": [
                *by,
                *("--steps", "10", "--accumulate", "2"),
                *("--config", config("bf16", mode="backward", period=2, schedule="equal", optimizer_in_backward=True)),
            ],
        }
    return train(folder, cases, environ={"GEO_ACCEL_TRACE": str(folder / "trace")}) | {"folder": folder}


@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_backward_is_averaging_before_the_update(runs, integration):
    """With clipping, accumulation and recomputed activations; the reference averages by plain collectives."""
    backward = runs[f"{integration} backward"]
    assert distance(runs["average first"], backward) < 1e-6
    losses = [record["losses"] for record in backward.records]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("integration", INTEGRATIONS)
@pytest.mark.parametrize("name", ["backward", "dreamddp", "manual", "published"])
def test_sites_end_with_the_same_bits_and_no_traffic_but_the_plans(runs, integration, name):
    run = runs[f"{integration} {name}"]
    assert run.is_agreed()
    assert [record["world_collectives"] for record in run.records] == [0, 0]


@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_plans_are_what_was_asked_for(runs, integration):
    plans = {name: runs[f"{integration} {name}"].records[0]["summary"]["plan"] for name in ("dreamddp", "manual")}
    assert plans["dreamddp"]["schedule"] == "dreamddp" and plans["dreamddp"]["period"] == 3
    # Of a plan without names the run says whom it runs it for.
    ours = read_plan(runs["folder"] / "plan.json").for_members(Members(2, names=("site0", "site1")))
    assert plans["manual"] == json.loads(ours.to_json())


@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_updates_inside_backward_train_as_well(runs, integration):
    losses = runs[f"{integration} published"].records[0]["losses"]
    assert sum(losses[-4:]) < sum(losses[:4])


def test_every_unit_starts_in_any_period_of_mode_backward(tmp_path):
    arguments = ["--config", config(mode="backward", schedule="equal", period=4), "--steps", "21"]
    arguments += ["--accumulate", "2", "--examples", "52"]
    train(tmp_path, {"run": arguments}, environ={"GEO_ACCEL_TRACE": str(tmp_path / "trace")})
    trace = tmp_path / "trace" / "site0.0.trace.json"
    assert windows_without([trace], period=4, steps=21, begin=2) == []
    tracks = {event.get("cat") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"step", "forward", "backward", "update", "transfer"} <= tracks


@pytest.mark.parametrize(
    "sync, arguments, words",
    [
        (
            {"mode": "backward", "period": 2, "schedule": "equal", "optimizer_in_backward": True},
            ["--clip", "1.0"],
            "sync.optimizer_in_backward: gradients cannot be clipped",
        ),
        (
            {"mode": "backward", "period": 2, "schedule": "equal", "optimizer_in_backward": True},
            ["--clip", "1.0", "--integration", "trainer"],
            "sync.optimizer_in_backward: gradients cannot be clipped",
        ),
        ({"schedule": "manual", "plan": "/nowhere/plan.json"}, [], "/nowhere/plan.json: plan: cannot be read"),
    ],
)
def test_what_cannot_be_is_one_line_on_every_site(tmp_path, sync, arguments, words):
    command = [WORKER, "--out", str(tmp_path), "--config", json.dumps({"sync": sync}), *arguments]
    for finished in run_workers(command, timeout_s=90):
        assert finished.returncode == 2
        (line,) = error_lines(finished)
        assert words in line


def test_a_plan_for_another_model_is_refused_by_name(tmp_path):
    plan = choose_plan(Request(mode="stream", period=2, delay=1, codec="bf16"), [("other", 10)], Members(2))
    (tmp_path / "plan.json").write_text(plan.to_json())
    sync = {"schedule": "manual", "plan": str(tmp_path / "plan.json")}
    command = [WORKER, "--out", str(tmp_path), "--config", json.dumps({"sync": sync})]
    for finished in run_workers(command, timeout_s=90):
        assert finished.returncode == 2
        (line,) = error_lines(finished)
        assert "plan: it is for another model: unit other of 10 elements" in line
