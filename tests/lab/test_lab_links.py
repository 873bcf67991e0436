# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Training with a job per site over lines as they are: cut, behind NAT, and listened to."""

import hashlib
import json
import struct

import pytest
import torch

from geo_accel.lab import run_sites
from tests.workers.job_worker import MOVE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(200)]
WORKER = "tests.workers.job_worker"


def trained(python_m, *arguments, **lab):
    """What the last line of every site that trains says, by site."""
    result = run_sites([*python_m, WORKER, *arguments], timeout_s=150, **{"jobs": True} | lab)
    said = [site.output for site in result.sites]
    assert result.exit_code == 0, "\n".join(output[-2500:] for output in said)
    lines = [output.strip().splitlines()[-1] for output in said]
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_line_that_is_cut_in_the_midst_of_a_round_costs_time_alone(python_m):
    """Every step sends 4 MB each way, so some round is always on its way."""
    arguments = ["--steps", "10", "--numel", "1_000_000"]
    cut = trained(python_m, *arguments, rate_changes=[("step 4 of", ["up", "cut 10s"])])
    uncut = hashlib.sha256(torch.full((1_000_000,), 10 * MOVE).numpy().tobytes()).hexdigest()
    assert [one["digest"] for one in cut] == [uncut] * 2
    assert all(one["longest_step_s"] > 9 for one in cut)


def test_two_sites_behind_nat_train_through_one_public_port(python_m, tmp_path):
    found = trained(python_m, "--meet-at", "site0", "--done", str(tmp_path), sites=3, nat=[1, 2])
    assert len(found) == 2 and found[0]["digest"] == found[1]["digest"] and found[0]["first"] == 20 * MOVE


def test_a_public_site_and_two_behind_nat(python_m):
    found = trained(python_m, sites=3, nat=[1, 2])
    assert len({one["digest"] for one in found}) == 1 and found[0]["first"] == 20 * MOVE


@pytest.mark.parametrize("jobs", [True, False], ids=["links", "gloo"])
def test_who_listens_on_the_line_reads_nothing(python_m, tmp_path, jobs):
    """And reads all where one job spans the sites, so that reading would have been seen."""
    captured = tmp_path / "captured"
    trained(python_m, "--steps", "5", "--capture", f"{captured}-{{rank}}", jobs=jobs)
    packets = (tmp_path / "captured-0").read_bytes()
    assert len(packets) > 5 * 2 * 4 * 200_000, "both directions, five rounds in fp32"
    needles = {
        "weights": struct.pack("<f", MOVE) * 64,
        "config": b'"compression"',
        "units": b'"weights"',
        "version": b"geo_accel version",
    }
    found = {name for name, needle in needles.items() if needle in packets}
    assert found == (set() if jobs else set(needles))


@pytest.mark.alone
def test_a_line_that_loses_packets_carries_half_of_what_it_could(python_m, tmp_path):
    """gloo's one connection carries 8 to 14 of 100 Mbit/s there."""
    nbytes = 4_000_000
    arguments = ["--nbytes", str(nbytes), "--count", "3", "--out", str(tmp_path)]
    command = [*python_m, "tests.workers.swap_worker", *arguments]
    result = run_sites(command, timeout_s=100, jobs=True, bandwidth_mbps=100, latency_ms=25, loss_percent=0.1)
    assert result.exit_code == 0, result.sites[0].output[-2500:]
    took = min(json.loads((tmp_path / "rank-0.json").read_text())["seconds"][1:])
    assert 8e-6 * nbytes / took > 50


@pytest.mark.alone
def test_what_trl_gathers_in_every_step_costs_no_round_trip(python_m):
    """In one job over both sites SFT waits for four of them in every step, DPO for fifteen."""
    pytest.importorskip("trl")
    command = [*python_m, "tests.workers.trl_worker", "--steps", "24"]
    result = run_sites(command, timeout_s=150, jobs=True, bandwidth_mbps=100, latency_ms=25)
    assert result.exit_code == 0, result.sites[0].output[-2500:]
    (line,) = [line for line in result.sites[0].output.splitlines() if line.startswith('{"sft"')]
    for kind, found in json.loads(line).items():
        assert found["geo"][0]["step_s"] < found["alone"][0]["step_s"] + 0.05, kind
