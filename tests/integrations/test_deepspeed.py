# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""DeepSpeed on two sites of two ranks each: what a site computes stays there, and rounds act on the masters."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from geo_accel.testing.launch import Finished, run_workers

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]
pytest.importorskip("deepspeed")

# Whole units, so that every way of holding the masters sends the same values in the same rounds.
CONFIG = json.dumps(
    {"sync": {"period": 3, "delay": 1, "schedule": "equal", "outer": "mean"}, "compression": {"codec": "fp32"}}
)
STEPS = 30


def launch(folder: Path, *arguments: str, sites: tuple[int, ...] = (2, 2)) -> list[Finished]:
    # DeepSpeed's kernel for shared memory would take all ranks of this machine for one site.
    environ = {"LOCAL_SIZE": str(sites[0]), "DS_ACCELERATOR": "cpu"}
    command = ["geo_accel.testing.deepspeed_worker", *arguments, "--out", str(folder)]
    return run_workers(command, sites=sites, timeout_s=150, environ=environ)


def train(folder: Path, *arguments: str) -> tuple[list[dict], list[dict]]:
    """Records and final parameters, by rank."""
    finished = launch(folder, "--config", CONFIG, *arguments)
    assert [one.returncode for one in finished] == [0] * 4, "\n".join(one.output[-1500:] for one in finished)
    records = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(4)]
    return records, [load_file(folder / f"rank-{rank}.safetensors") for rank in range(4)]


def require_sites_kept_and_agreed(records: list[dict], weights: list[dict]) -> None:
    unlike = [record["unlike"] for record in records]
    assert unlike[0] == unlike[1] != unlike[2] == unlike[3]  # between rounds: inside a site, and between sites
    assert all(values.equal(weights[0][name]) for held in weights for name, values in held.items())
    assert [record["copies_agree"] for record in records] == [True] * 4
    assert [record["spanning"] for record in records] == [0] * 4
    assert records[0]["summary"]["wan_bytes"] > 0


@pytest.fixture(scope="module")
def by_stage(tmp_path_factory):
    return {
        stage: train(tmp_path_factory.mktemp(f"zero{stage}"), "--zero", str(stage), "--steps", str(STEPS))
        for stage in range(4)
    }


@pytest.mark.parametrize("stage", range(4))
def test_every_stage_keeps_to_its_site_and_agrees_in_the_end(by_stage, stage):
    require_sites_kept_and_agreed(*by_stage[stage])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_trains_like_plain_data_parallelism(by_stage, stage):
    for plain, sharded in zip(by_stage[0][0], by_stage[stage][0], strict=True):
        assert len(sharded["losses"]) == STEPS
        assert sharded["losses"] == pytest.approx(plain["losses"], abs=1e-4)


@pytest.mark.parametrize("stage, how", [(0, ()), (1, ()), (2, ("--offload",)), (3, ("--early",))])
def test_low_precision_copies_follow_the_masters(tmp_path, stage, how):
    records, weights = train(tmp_path, "--zero", str(stage), "--dtype", "bf16", *how)
    require_sites_kept_and_agreed(records, weights)
    assert {str(values.dtype) for values in weights[0].values()} == {"torch.bfloat16"}


def test_an_overflow_on_one_site_skips_no_round(tmp_path):
    records, weights = train(tmp_path, "--zero", "2", "--dtype", "fp16", "--overflow-at", "5")
    require_sites_kept_and_agreed(records, weights)
    assert [record["skipped"] > 0 for record in records[:2]] == [True, True]
    assert records[0]["skipped"] > records[2]["skipped"]


def refused(folder: Path, *arguments: str, sites: tuple[int, ...] = (2, 2)) -> str:
    finished = launch(folder, *arguments, sites=sites)
    lines = {line for one in finished for line in one.output.splitlines() if line.startswith("error: ")}
    assert {one.returncode for one in finished} == {2} and len(lines) == 1, finished[0].output[-2000:]
    return lines.pop()


def test_a_model_prepared_over_all_sites_is_refused(tmp_path):
    assert "the model was prepared over all sites: call geo_accel.keep_deepspeed_in_site(config) before" in refused(
        tmp_path, "--zero", "1", "--method", "late"
    )


def test_zero_needs_sites_of_equal_size(tmp_path):
    assert "ZeRO 1 needs sites of equal size" in refused(tmp_path, "--zero", "1", sites=(2, 1))


def test_a_block_inside_zero_optimization_is_refused(tmp_path):
    told = json.dumps({"zero_optimization": {"stage": 1, "geo_accel": {}}})
    assert 'zero_optimization.geo_accel: the block is read at the top level only' in refused(
        tmp_path, "--deepspeed", told
    )
