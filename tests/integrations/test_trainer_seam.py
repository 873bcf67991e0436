# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where Trainer decides and saves: a transformers that does it elsewhere is noticed before anything is trained."""

import inspect
import re
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import CallbackHandler, TrainerCallback
from transformers.trainer_jit_checkpoint import CheckpointManager, JITCheckpointCallback

from geo_accel.integrations import trainer_seam as seam
from tests.workers.models import build_model


def plugged(**missing):
    handler = CallbackHandler([], None, None, None, None)
    return SimpleNamespace(**{name: None for name in (*seam.HOOKS, *seam.CALLED)}, callback_handler=handler)


@pytest.mark.parametrize("name, arguments", [*seam.HOOKS.items(), *seam.CALLED.items()])
def test_trainers_methods_take_what_we_give_them(name, arguments):
    assert tuple(inspect.signature(getattr(Trainer, name)).parameters)[1:] == arguments


def test_a_trainer_that_decides_elsewhere_is_refused(monkeypatch):
    seam.require_hooks(plugged())
    for name in (*seam.HOOKS, *seam.CALLED):
        odd = plugged()
        delattr(odd, name)
        with pytest.raises(ValueError, match=f"has no {name} of Trainer"):
            seam.require_hooks(odd)
    for owner, name in ((TrainingArguments, "should_save"), (PreTrainedModel, "should_save_on_this_rank")):
        with monkeypatch.context() as patch:
            patch.delattr(next(kind for kind in owner.__mro__ if name in vars(kind)), name)
            with pytest.raises(ValueError, match=f"has no {owner.__name__}.{name}"):
                seam.require_hooks(plugged())


def test_every_event_goes_through_the_one_that_is_wrapped():
    """Else our part would not come after all callbacks of an event."""
    for name, event in vars(CallbackHandler).items():
        if name.startswith("on_"):
            assert f'self.call_event("{name}"' in inspect.getsource(event)
    assert {name for name in vars(TrainerCallback) if name.startswith("on_")} == {
        name for name in vars(CallbackHandler) if name.startswith("on_")
    }


def test_only_trainers_own_loop_decides():
    """Trainer itself sets two flags, which are agreed on by other means: see `Decisions`."""
    found = re.findall(r"self\.control\.(should_\w+) = (.*)", inspect.getsource(Trainer))
    assert found == [("should_training_stop", "True"), ("should_save", "is_new_best_metric")]


@pytest.mark.parametrize("writes", [True, False])
def test_a_rank_writes_as_it_is_told(tmp_path, monkeypatch, writes):
    """Of the job's second rank, which transformers would let write nothing."""
    from transformers.distributed import mixin

    monkeypatch.setattr(mixin, "_is_torch_distributed_initialized", lambda: True)
    monkeypatch.setattr(mixin, "_get_torch_distributed_rank", lambda: 1)
    model, arguments = build_model("gpt2"), TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    before = arguments.should_save
    with seam.writing(arguments, writes):
        assert arguments.should_save is writes
        model.save_pretrained(tmp_path / "a", is_main_process=arguments.should_save)
    assert arguments.should_save is before and "should_save_on_this_rank" not in vars(PreTrainedModel)
    model.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b" / "model.safetensors").exists()
    assert (tmp_path / "a" / "model.safetensors").exists() is writes
    if writes:
        assert load_file(tmp_path / "a" / "model.safetensors")


def test_a_signals_checkpoint_is_asked_for_instead_of_written():
    told = []
    callback = JITCheckpointCallback()
    callback.jit_manager = CheckpointManager(trainer=None)
    trainer = SimpleNamespace(callback_handler=CallbackHandler([callback], None, None, None, None))
    seam.on_signals(trainer, lambda: told.append("save and stop"))
    callback.jit_manager.is_checkpoint_requested = True
    control = SimpleNamespace(should_training_stop=False, should_save=True)
    callback.on_step_end(None, None, control)
    assert told == ["save and stop"] and control.should_training_stop
    callback.on_step_begin(None, None, control)
    assert told == ["save and stop"]


@pytest.mark.deepspeed
@pytest.mark.parametrize("writes", [True, False])
def test_a_rank_that_writes_keeps_what_deepspeed_gathers(monkeypatch, writes):
    engine = pytest.importorskip("deepspeed.runtime.engine")
    assert "dist.get_rank() == 0" in inspect.getsource(engine.DeepSpeedEngine._zero3_consolidated_16bit_state_dict)
    monkeypatch.setattr(engine.dist, "get_rank", lambda group=None: 3 if group is None else 1)
    comm = engine.dist
    with seam.writing(TrainingArguments(use_cpu=True), writes, gathers=True):
        assert engine.dist.get_rank() == (0 if writes else 3) and engine.dist.get_rank("some") == 1
        assert engine.dist.all_gather is comm.all_gather
    assert engine.dist is comm
