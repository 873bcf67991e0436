# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The few places that lean on what frameworks do not promise: they must break loudly, not silently."""

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import DataLoaderDispatcher
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers import trainer as trainer_module

from geo_accel.integrations.data import deal_in_site, sample_order_is_agreed
from geo_accel.integrations.one_world import metrics_seam
from geo_accel.integrations.one_world.trainer_seam import NAMES, training_collectives_in_site
from geo_accel.transport.patience import LONGEST_S


@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_that_gathers_otherwise_is_refused(monkeypatch, name):
    monkeypatch.delattr(trainer_module, name)
    with (
        pytest.raises(ValueError, match=f"has no trainer.{name}"),
        training_collectives_in_site(None),
    ):
        pass


def test_trainer_gets_its_functions_back(monkeypatch):
    before = [getattr(trainer_module, name) for name in NAMES]
    with pytest.raises(RuntimeError), training_collectives_in_site(None):
        assert [getattr(trainer_module, name) for name in NAMES] != before
        raise RuntimeError
    assert [getattr(trainer_module, name) for name in NAMES] == before


def test_ddp_still_has_the_attributes_that_it_is_rebuilt_from():
    """keep_gradients_in_site passes a wrapper's own settings to its constructor again."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapper = nn.parallel.DistributedDataParallel(
            nn.Linear(2, 2), find_unused_parameters=True, bucket_cap_mb=7, gradient_as_bucket_view=True
        )
        assert wrapper.find_unused_parameters and wrapper.gradient_as_bucket_view
        assert wrapper.bucket_bytes_cap == 7 * 2**20
        assert wrapper.broadcast_buffers is True and wrapper.static_graph is False and wrapper.dim == 0
        assert wrapper.device_ids is None and wrapper.output_device is None and wrapper.mixed_precision is None
        assert wrapper._comm_hooks == [] and wrapper.require_backward_grad_sync is True
    finally:
        torch.distributed.destroy_process_group()


def test_a_loader_that_reads_for_everyone_is_refused():
    loader = DataLoaderDispatcher.__new__(DataLoaderDispatcher)
    with pytest.raises(ValueError, match="dispatch_batches=False"):
        sample_order_is_agreed(loader, SimpleNamespace(one_world=True))


def test_private_data_needs_a_prepared_loader():
    with pytest.raises(ValueError, match="needs a prepared map-style dataloader"):
        deal_in_site(DataLoader([1, 2, 3]), None)


@pytest.mark.parametrize(
    "module, gathers",
    [("sft", 6), ("dpo", 16), ("kto", 15), ("reward", 4)],  # those behind aux_loss_enabled and of packed data included
)
def test_trl_still_gathers_metrics_in_its_loss_and_nothing_else(module, gathers):
    """metrics_in_site answers what these modules ask of their accelerator inside training_step."""
    pytest.importorskip("trl")
    assert metrics_seam.is_known(metrics_seam.installed())
    source = Path(importlib.util.find_spec(f"trl.trainer.{module}_trainer").origin).read_text()
    loss = source[source.index("    def _compute_loss" if "def _compute_loss" in source else "    def compute_loss") :]
    assert f"trl.trainer.{module}_trainer" in metrics_seam.MODULES
    assert len(re.findall(r"self\.accelerator\.gather(?:_for_metrics)?\(", loss)) == gathers
    assert "accelerator.reduce(" not in source and " gather(" not in source


@pytest.mark.parametrize("found, known", [("1.16.0", True), ("1.20", True), ("1.15.9", False), ("2.0.0", False)])
def test_other_versions_of_trl_are_left_alone(monkeypatch, caplog, found, known):
    monkeypatch.setattr(metrics_seam, "installed", lambda: found)
    kind = type("SFTTrainer", (), {"training_step": lambda self: None, "__module__": metrics_seam.MODULES[0]})
    trainer = kind()
    with metrics_seam.metrics_in_site(trainer, None):
        assert ("training_step" in vars(trainer)) is known
    assert vars(trainer) == {} and bool(caplog.records) is not known


def test_a_busy_site_is_waited_for_as_long_as_trainer_waits():
    """300 s was less than one process takes to tokenise for all."""
    ddp_timeout = next(field for field in dataclasses.fields(TrainingArguments) if field.name == "ddp_timeout")
    assert ddp_timeout.default == LONGEST_S
