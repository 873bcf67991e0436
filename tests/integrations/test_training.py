# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Runs as users have them: clipping, evaluation, checkpoints, several ranks per site, models of all kinds."""

import json

import pytest

from tests.workers.runs import distance, train, windows_without


def config(**sync):
    return json.dumps({"sync": {"period": 3, "delay": 1, **sync}, "compression": {"codec": "bf16"}})


ADAM = ["--optimizer", "adamw", "--lr", "0.003", "--clip", "1.0"]
BUSY = ["--integration", "trainer", *ADAM, "--steps", "11", "--accumulate", "2", "--config", config()]
BUSY += ["--evaluate-every", "4", "--save-every", "4", "--load-best"]
FREE = ["--integration", "trainer", "--optimizer", "schedule_free", "--lr", "0.01", "--steps", "10"]
FREE += ["--evaluate-every", "4", "--save-every", "6", "--config", config()]
FREE_RUNS = ["schedule-free", "schedule-free-resumed"]
AUTO = json.dumps({"link": {"bandwidth_mbps": 200, "latency_ms": 1}})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs")
    return train(
        out,
        {
            "busy": BUSY,
            "schedule-free": FREE,
            "schedule-free-resumed": [*FREE, "--resume", str(out / "schedule-free" / "trainer" / "checkpoint-6")],
            "llama": [*ADAM, "--model", "llama", "--steps", "8", "--config", config()],
            "lora": [*ADAM, "--model", "lora", "--steps", "8", "--config", config()],
            "resnet": [*ADAM, "--model", "resnet", "--steps", "8", "--config", config()],
            "auto": [*ADAM, "--steps", "30", "--config", "{}"],
            "auto-stated": [*ADAM, "--integration", "trainer", "--steps", "16", "--config", AUTO],
        },
    )


@pytest.fixture(scope="module")
def precise(tmp_path_factory):
    """bf16 autocast has a launch of its own: Accelerate keeps one precision per process."""
    arguments = [*ADAM, "--steps", "8", "--bf16", "--config", config()]
    return train(tmp_path_factory.mktemp("bf16"), {"bf16": arguments})


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    common = [*ADAM, "--steps", "8", "--config", config(period=5)]
    return train(
        tmp_path_factory.mktemp("squares"),
        {"accelerate": common, "trainer": [*common, "--integration", "trainer"]},
        sites=(2, 2),
    )


@pytest.mark.parametrize("name", ["busy", *FREE_RUNS, "llama", "lora", "resnet", "auto", "auto-stated"])
def test_sites_end_with_the_same_bits_and_no_traffic_but_the_plans(pairs, name):
    run = pairs[name]
    assert run.is_agreed()
    # Evaluation and best-model checkpoints talk to everyone, as Trainer does.
    if name not in ("busy", *FREE_RUNS):
        assert [record["world_collectives"] for record in run.records] == [0, 0]


def test_sites_do_train_apart_between_rounds(pairs):
    for name in ("llama", "lora", "resnet"):
        assert pairs[name].records[0]["before_flush"] != pairs[name].records[1]["before_flush"]


def test_bf16_autocast(precise):
    assert precise["bf16"].is_agreed()


@pytest.mark.parametrize("name", ["busy", "schedule-free"])
def test_trainer_evaluates_the_agreed_model(pairs, name):
    """The same evaluation loss on both sites, to the last bit, and the best model is what is left."""
    histories = [[entry for entry in r["history"] if "eval_loss" in entry] for r in pairs[name].records]
    losses = [[entry["eval_loss"] for entry in history] for history in histories]
    assert losses[0] == losses[1] and len(losses[0]) == 3  # steps 4, 8 and the last


def test_a_schedule_free_run_goes_on_where_it_was(pairs):
    assert distance(pairs["schedule-free"], pairs["schedule-free-resumed"]) == 0


def test_trainer_logs_what_synchronisation_costs(pairs):
    logs = [entry for entry in pairs["busy"].records[0]["history"] if "loss" in entry]
    assert {"geo/exposed_s", "geo/wan_bytes", "geo/period", "geo/codec_bits", "geo/efficiency"} <= set(logs[-1])


def test_only_adapters_cross_the_wan(pairs):
    run = pairs["lora"]
    adapters = sum(tensor.numel() for name, tensor in run.weights[0].items() if "lora_" in name)
    assert adapters > 0
    # 8 steps of period 3: pieces started 8 times, about 8/3 of the adapters in bf16, and one flush in fp32
    assert run.records[0]["summary"]["wan_bytes"] <= adapters * (2 * 3 + 4)


def test_auto_measures_plans_and_says_why(pairs):
    for name in ("auto", "auto-stated"):
        plans = [record["summary"]["plan"] for record in pairs[name].records]
        assert plans[0] == plans[1] and plans[0]["period"] >= 1 and "link" in plans[0]["reason"]
    assert pairs["auto-stated"].records[0]["summary"]["link_mbps"] == pytest.approx(200)


@pytest.mark.parametrize("integration", ["accelerate", "trainer"])
def test_ranks_of_a_site_agree_and_sites_differ(squares, integration):
    run = squares[integration]
    before = [record["before_flush"] for record in run.records]
    assert before[0] == before[1] != before[2] == before[3]
    assert run.is_agreed()
    assert [record["world_collectives"] for record in run.records] == [0] * 4


def test_private_data_is_dealt_inside_the_site(tmp_path):
    """Sites with unlike amounts of data: no hang, one number of steps, and each sees only its own examples."""
    common = ["--private", "--config", config()]
    runs = train(
        tmp_path,
        {
            "accelerate": [*common, "--steps", "9"],
            "trainer": [*common, "--integration", "trainer", "--steps", "-1"],
        },
        per_rank={0: ["--examples", "12"], 1: ["--examples", "40", "--data-seed", "5"]},
    )
    for run in runs.values():
        assert run.is_agreed()
    assert [record["steps"] for record in runs["trainer"].records] == [18, 18]  # 3 epochs of 12 / 2


@pytest.mark.parametrize("integration", ["accelerate", "trainer"])
def test_every_unit_starts_in_any_period_over_epochs_and_accumulation(tmp_path, integration):
    """Three epochs of seven steps, the last step of each with one micro-batch, a period of four."""
    arguments = ["--integration", integration, "--config", config(period=4)]
    arguments += ["--steps", "21", "--accumulate", "2", "--examples", "52"]
    train(tmp_path, {"run": arguments}, environ={"GEO_ACCEL_TRACE": str(tmp_path / "trace")})
    assert windows_without([tmp_path / "trace" / "site0.0.trace.json"], period=4, steps=21) == []
