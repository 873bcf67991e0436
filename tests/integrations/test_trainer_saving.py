# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What Trainer's methods do around a save, with sites that are not there."""

import logging
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from geo_accel.integrations.disks import Disk
from geo_accel.integrations.trainer_callback import GeoCallback
from geo_accel.integrations.trainer_saving import Saving
from geo_accel.topology import Site, Topology
from tests.workers.models import build_data, build_model

SITES = (Site(name="a", ranks=(0,)), Site(name="b", ranks=(1,)))


class Decisions:
    flushed = may_save = ending = False

    def __init__(self):
        self.wished = []

    def wish(self, what):
        self.wished.append(what)


def plugged(tmp_path, writes=True, others=(), **arguments):
    """A Trainer of site b in the midst of a training; other sites answer a gather with `others`."""
    trainer = Trainer(
        model=build_model("gpt2"),
        args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], **arguments),
        train_dataset=build_data("gpt2", 4),
    )
    trainer.create_optimizer_and_scheduler(10)
    trainer.state.global_step = 7
    control = SimpleNamespace(gather=lambda what, mine: [*others, mine])
    session = SimpleNamespace(topology=Topology(sites=SITES, rank=1), control=control, config=None)
    saving = Saving(trainer, session, Disk(writes_whole=writes, writes_site=writes))
    callback = GeoCallback(trainer, session, saving)
    callback.engine, callback._decisions = SimpleNamespace(plan=SimpleNamespace(period=8, delay=2)), Decisions()
    saving.begin(callback.engine, callback._decisions)
    return trainer, saving, callback


def test_a_survivors_checkpoint_is_whole_and_one_of_trainers(tmp_path):
    trainer, saving, _ = plugged(tmp_path)
    folder = tmp_path / "survivor-b" / "checkpoint-7"
    assert saving.save_survivor() == f"Saved b's model and optimizer at step 7 in {folder}."
    files = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= files
    assert torch.equal(load_file(folder / "model.safetensors")["transformer.wte.weight"], trainer.model.lm_head.weight)
    assert get_last_checkpoint(str(tmp_path / "survivor-b")) == str(folder)


def test_saved_is_said_by_who_did_it(tmp_path):
    _, saving, _ = plugged(tmp_path, writes=False)
    assert saving.save_survivor().startswith("Another rank of b saves b's model")
    assert not (tmp_path / "survivor-b").exists()
    _, saving, _ = plugged(tmp_path)
    (tmp_path / "survivor-b").touch()  # as a disk that refuses
    assert "b's model and optimizer at step 7 could not be saved in" in saving.save_survivor()


def test_a_model_is_written_when_sites_agree_on_it(tmp_path):
    trainer, saving, callback = plugged(tmp_path)
    save_model = saving.agreed(trainer.save_model)
    save_model(str(tmp_path / "model"))
    assert callback._decisions.wished == ["flush"] and not (tmp_path / "model").exists()
    callback._decisions.flushed = True
    saving.write_what_waits()
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("step_s, alone", [(0.1, False), (5.0, True)])
def test_a_signal_asks_for_a_save_and_keeps_what_there_is_where_steps_are_long(tmp_path, caplog, step_s, alone):
    _, _, callback = plugged(tmp_path)
    callback._step_s = step_s
    with caplog.at_level(logging.WARNING, "geo_accel"):
        callback.save_and_stop()
    assert callback._decisions.wished == ["save"] and "within about 10 steps" in caplog.text
    assert (tmp_path / "survivor-b" / "checkpoint-7" / "model.safetensors").exists() == alone
    assert ("that may be too late. Saved b's model" in caplog.text) == alone


@pytest.mark.parametrize(
    "others, mine, used",
    [([0.5], 0.5, 0.5), ([0.1 + 0.2] * 2, 0.1 + 0.2, 0.1 + 0.2), ([1.0], 2.0, 1.5), ([None], 1.0, None)],
)
def test_sites_judge_the_best_model_by_one_number(tmp_path, others, mine, used):
    """Their own, to the bit, where they are the same, as they are on one evaluation set; else the mean."""
    _, _, callback = plugged(tmp_path, others=others, metric_for_best_model="loss")
    seen = []
    callback.alike(lambda metrics, trial: seen.append(metrics))({"eval_loss": mine, "epoch": 1}, None)
    assert seen == [{"epoch": 1} if used is None else {"eval_loss": used, "epoch": 1}]


def test_what_one_rank_cannot_write_is_raised_on_all(tmp_path):
    answer = {"kind": "OSError", "problem": "No space left on device"}
    trainer, saving, callback = plugged(tmp_path, others=[answer], save_only_model=True)
    saving._session.control.name_of = lambda rank: f"rank {rank}"
    callback._decisions.may_save = True
    with pytest.raises(OSError, match=r"checkpoint-7: rank 0: No space left on device"):
        saving.whole(trainer._save_checkpoint)(trainer.model, None)


def test_a_checkpoint_out_of_turn_is_put_off(tmp_path):
    trainer, saving, callback = plugged(tmp_path)
    assert saving.whole(trainer._save_checkpoint)(trainer.model, None) is None
    assert callback._decisions.wished == ["save"] and not list(tmp_path.glob("checkpoint-*"))
