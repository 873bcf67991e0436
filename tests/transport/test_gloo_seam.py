# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""gloo listens where it is told, and nobody else is told: this breaks where torch asks otherwise."""

import os

import pytest
import torch.distributed as dist

from geo_accel.transport.gloo_seam import INTERFACE_VARIABLE, new_group


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setenv(INTERFACE_VARIABLE, "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_interface_reaches_gloo_and_the_environment_stays(world, monkeypatch):
    assert dist.get_world_size(new_group([0], 5)) == 1
    with pytest.raises(RuntimeError, match="no-such-0"):
        new_group([0], 5, "no-such-0")
    assert os.environ[INTERFACE_VARIABLE] == "lo"
    monkeypatch.delenv(INTERFACE_VARIABLE)
    assert dist.get_world_size(new_group([0], 5, "lo", "ours")) == 1
    assert INTERFACE_VARIABLE not in os.environ
