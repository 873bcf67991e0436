# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""However models come wrapped, compiled and unwrapped: what DDP sends stays in the site, or is refused."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer

from geo_accel.integrations.gradients import bare_model
from geo_accel.integrations.one_world.gradients import keep_gradients_in_site, refuse_what_else_crosses
from geo_accel.topology import Site, Topology
from tests.workers.launch import run_workers

KEPT = ["plain", "bare", "whole", "whole_unwrapped", "regional", "regional_unwrapped", "both", "frozen", "trainer"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """By scenario, then by rank: two ranks at the first site, one at the second."""
    out = tmp_path_factory.mktemp("crossing")
    finished = run_workers(["tests.workers.crossing_worker", str(out), *KEPT, "one"], (2, 1), timeout_s=170)
    for rank, one in enumerate(finished):
        assert one.returncode == 0, f"rank {rank}:\n{one.output[-3000:]}"
    return {name: read(out, name, 3) for name in [*KEPT, "one"]}


def read(out: Path, name: str, ranks: int) -> list[dict]:
    return [json.loads((out / f"{name}.rank-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize("name", KEPT)
def test_nothing_is_reduced_over_all_sites_and_ranks_of_a_site_agree(records, name):
    assert [record["crossed"] for record in records[name]] == [0, 0, 0]
    own = [record["own"] for record in records[name]]
    assert own[0] == own[1] != own[2]
    assert len({record["flushed"] for record in records[name]}) == 1


def test_compiling_changes_neither_losses_nor_the_names_of_units(records):
    for name in ("bare", "whole", "whole_unwrapped", "regional", "regional_unwrapped"):
        for mine, plain in zip(records[name], records["plain"], strict=True):
            assert mine["units"] == plain["units"] and mine["losses"] == pytest.approx(plain["losses"], rel=1e-4)


def test_a_second_model_without_a_geosync_is_refused(records):
    for record in records["one"]:
        assert "a ResNet, has no GeoSync" in record["said"] and "requires_grad_(False)" in record["said"]


# ---- one process


ALONE = Topology((Site("here", (0,)), Site("there", (1,))), rank=0)


@pytest.fixture
def session():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield SimpleNamespace(site_group=torch.distributed.new_group([0]), topology=ALONE)
    torch.distributed.destroy_process_group()


def test_statistics_of_synchronised_batch_norms_are_the_sites(session):
    model = nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2))
    keep_gradients_in_site(model, session)  # bare: DDP takes them on accelerators only
    assert model[1].process_group is session.site_group


def test_a_wrapper_taken_out_of_a_compiled_model_is_found(session):
    model = nn.Linear(2, 2)
    compiled = torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager")
    wrapper, compiled._orig_mod = compiled._orig_mod, model  # what Accelerate's unwrap_model does
    keep_gradients_in_site(compiled, session)
    assert wrapper.process_group is session.site_group and bare_model(compiled) is model


@pytest.mark.parametrize("trained, word", [(True, "a Linear, has no GeoSync"), (False, None)])
def test_what_is_prepared_beside_the_model(session, monkeypatch, trained, word):
    monkeypatch.setattr(Topology, "crosses", lambda self, ranks: True)
    wrapper = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    wrapper.requires_grad_(trained)
    accelerator = SimpleNamespace(_models=[wrapper], _optimizers=[])
    with pytest.raises(ValueError, match=word) if word else contextlib.nullcontext():
        refuse_what_else_crosses(accelerator, ALONE)
    assert wrapper.require_backward_grad_sync is trained


def test_an_optimizer_that_is_spread_over_all_sites_is_refused(session, monkeypatch):
    monkeypatch.setattr(Topology, "crosses", lambda self, ranks: True)
    optimizer = ZeroRedundancyOptimizer(nn.Linear(2, 2).parameters(), torch.optim.SGD, lr=0.1)
    accelerator = SimpleNamespace(_models=[], _optimizers=[SimpleNamespace(optimizer=optimizer)])
    with pytest.raises(ValueError, match="ZeroRedundancyOptimizer spreads its state over all sites"):
        refuse_what_else_crosses(accelerator, ALONE)
