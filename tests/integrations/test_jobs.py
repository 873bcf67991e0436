# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A job per site does what one job over all sites does: the same weights, to the last bit where nothing is random."""

import json

import pytest

from tests.integrations.test_equivalence import LOCAL_SGD, STEPS
from tests.workers.runs import distance, train

# DDP counts ranks alike, not sites.
EVERY_STEP = json.dumps(
    {"sync": {"mode": "blocking", "period": 1}, "compression": {"codec": "fp32", "coefficients": "data"}}
)
BOTH = {
    "geo": [*STEPS, "--config", EVERY_STEP],
    "trainer-geo": [*STEPS, "--integration", "trainer", "--config", EVERY_STEP],
    "geo-local-sgd": ["--steps", "10", "--config", LOCAL_SGD],
}
ONE = {
    "ddp": [*STEPS, "--method", "ddp"],
    "trainer-ddp": [*STEPS, "--integration", "trainer", "--method", "ddp"],
    "geo-local-sgd": BOTH["geo-local-sgd"],
}


@pytest.fixture(scope="module", params=[(2, 2), (2, 1, 1)], ids=["2+2", "2+1+1"])
def ways(request, tmp_path_factory):
    """Runs by name: as one job over all sites, and with a job per site."""
    folder = tmp_path_factory.mktemp("ways")
    one = train(folder / "one", ONE, request.param)
    return one, train(folder / "jobs", BOTH, request.param, jobs=True)


@pytest.mark.parametrize("name, reference", [("geo", "ddp"), ("trainer-geo", "trainer-ddp")])
def test_averaging_every_step_losslessly_is_ddp(ways, name, reference):
    one, jobs = ways
    assert distance(one[reference], jobs[name]) < 1e-6


def test_local_sgd_is_that_of_one_job(ways):
    """Which is Accelerate's: see `test_equivalence.py`."""
    one, jobs = ways
    assert distance(one["geo-local-sgd"], jobs["geo-local-sgd"]) == 0


@pytest.mark.parametrize("name", BOTH)
def test_all_ranks_end_with_the_same_bits(ways, name):
    assert ways[1][name].is_agreed()


@pytest.mark.parametrize("name", BOTH)
def test_nothing_of_what_one_job_over_sites_needs_is_loaded(ways, name):
    one, jobs = ways
    assert [record["of_one_world"] for record in jobs[name].records] == [[]] * len(jobs[name].records)
    assert all(record["of_one_world"] for record in one["geo-local-sgd"].records)


def test_resumed_is_bit_identical_to_uninterrupted(tmp_path):
    config = json.dumps({"sync": {"period": 4, "delay": 2}, "compression": {"codec": "int8"}})
    common = ["--config", config, "--optimizer", "adamw", "--lr", "0.003", "--accumulate", "2", "--clip", "1.0"]
    common += ["--dropout", "0.1", "--steps", "12", "--save-every", "5", "--examples", "52"]
    names = {"accelerate": "step-5", "trainer": "trainer/checkpoint-5"}
    whole = train(tmp_path / "whole", {name: [*common, "--integration", name] for name in names}, (2, 1), jobs=True)
    resumed = train(
        tmp_path / "resumed",
        {
            name: [*common, "--integration", name, "--resume", f"{tmp_path}/whole/{name}/{{site}}/{folder}"]
            for name, folder in names.items()
        },
        (2, 1),
        jobs=True,
    )
    for name in names:
        assert distance(whole[name], resumed[name]) == 0
        for a, b in zip(whole[name].records, resumed[name].records, strict=True):
            assert 0 < len(b["losses"]) < len(a["losses"]) and a["losses"][-len(b["losses"]) :] == b["losses"]


def test_private_data_are_dealt_inside_the_site(tmp_path):
    """As in one job: a site sees all of its own examples and no other's."""
    runs = {"accelerate": ["--private", "--config", LOCAL_SGD, "--steps", "6"]}
    runs["trainer"] = [*runs["accelerate"], "--integration", "trainer"]
    own = {0: ["--examples", "12"], 1: ["--examples", "40", "--data-seed", "5"]}
    one, jobs = (train(tmp_path / str(jobs), runs, per_rank=own, jobs=jobs) for jobs in (False, True))
    for name in runs:
        assert distance(one[name], jobs[name]) == 0
