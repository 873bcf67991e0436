# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The "geo_accel" block in a DeepSpeed JSON that Accelerate was given: read, not taken out."""

import copy

import pytest

pytest.importorskip("deepspeed")

from accelerate import DeepSpeedPlugin
from accelerate.state import AcceleratorState

from geo_accel import load_config
from geo_accel.integrations import deepspeed_block_seam as seam

pytestmark = pytest.mark.deepspeed

TOLD = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": 1,
    "zero_optimization": {"stage": 1},
    "geo_accel": {"sync": {"period": "auto", "delay": 2}},
}


@pytest.fixture
def plugin(monkeypatch):
    """As if an Accelerator had been made with it."""
    monkeypatch.setattr(DeepSpeedPlugin, "deepspeed_config_process", DeepSpeedPlugin.deepspeed_config_process)
    monkeypatch.setattr(seam, "_read", None)
    made = DeepSpeedPlugin(hf_ds_config=copy.deepcopy(TOLD))
    monkeypatch.setattr(seam, "is_initialized", lambda: True)
    monkeypatch.setattr(AcceleratorState, "deepspeed_plugin", made, raising=False)
    monkeypatch.setattr(AcceleratorState, "__init__", lambda self: None)
    return made


def fill_in(plugin: DeepSpeedPlugin) -> None:
    """As `Accelerator.prepare` does."""
    plugin.deepspeed_config_process(must_match=False, train_micro_batch_size_per_gpu=4)


def test_accelerate_refuses_the_block_by_itself(plugin):
    """Else this seam has no reason to be."""
    with pytest.raises(ValueError, match=r"`geo_accel.sync.period` not found in kwargs"):
        fill_in(plugin)


def test_the_block_is_read_once_and_stays(plugin):
    before = copy.deepcopy(plugin.deepspeed_config)
    block = seam.unread_block()
    assert load_config(block).sync.delay == 2
    assert seam.unread_block() is None
    assert plugin.deepspeed_config == before and plugin.hf_ds_config.config is plugin.deepspeed_config
    fill_in(plugin)
    assert plugin.deepspeed_config == before | {"train_micro_batch_size_per_gpu": 4}


def test_a_json_without_a_block_has_none(plugin):
    del plugin.deepspeed_config["geo_accel"]
    assert seam.unread_block() is None
    fill_in(plugin)
