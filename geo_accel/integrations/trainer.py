# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Hugging Face Trainer: `plug_into(trainer, config)` before `trainer.train()`, for any subclass."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from geo_accel.integrations.data import deal_in_site, sample_order_is_agreed
from geo_accel.integrations.gradients import bare_model, keep_gradients_in_site, refuse_what_else_crosses
from geo_accel.integrations.session import ConfigSource, Session, connect
from geo_accel.integrations.trainer_seam import training_collectives_in_site
from geo_accel.sync import checkpoint
from geo_accel.sync.engine import Engine
from geo_accel.sync.handshake import require_same
from geo_accel.sync.masters import PlainMasters
from geo_accel.transport.errors import SiteLostError
from geo_accel.units import find_units

logger = logging.getLogger("geo_accel")


def plug_into(trainer: Trainer, config: ConfigSource = None, data: str = "shared") -> "GeoCallback | None":
    """Makes `trainer` train across sites; call it before `trainer.train()`. Collective.

    `data` is "shared" (one data set, dealt to all ranks as usual) or "private" (each site has its own training data,
    dealt inside the site; the shortest site's number of steps is agreed on). Evaluation stays Trainer's own: its data
    set must be the same everywhere.

    Returns the callback it added, or None where there is nothing to synchronise. Raises ConfigError, ValueError
    (sites that differ, named, before the first step) or SiteLostError (peers that do not come). When a site is lost
    during training, `trainer.train()` writes a checkpoint of this site below `output_dir` and raises SiteLostError
    with the site's name and that folder's.
    """
    if data not in ("shared", "private"):
        raise ValueError(f'data = {data!r}: allowed are "shared" and "private".')
    if trainer.is_deepspeed_enabled:
        from geo_accel.integrations.deepspeed import keep_deepspeed_in_site

        session = keep_deepspeed_in_site(config)
    else:
        session = connect(config)
    if session is None:
        return None
    # Here, because DDP will copy rank 0's weights to everyone when training begins; DeepSpeed copies inside the site.
    if trainer.model is not None and not trainer.is_deepspeed_enabled:
        masters = PlainMasters(find_units(trainer.model), session.topology)
        require_same(session.control, session.topology, session.config, masters, {})
    args = trainer.args
    if args.average_tokens_across_devices:
        # It would gather token counts over the WAN in every step; each rank weighs its own tokens instead.
        args.average_tokens_across_devices = False
    if args.include_num_input_tokens_seen != "no":
        logger.warning("geo_accel: include_num_input_tokens_seen gathers over the WAN in every step; turned off.")
        args.include_num_input_tokens_seen = "no"
    if data == "private":
        _deal_privately(trainer, session)
    callback = GeoCallback(trainer, session)
    trainer.add_callback(callback)
    trainer.train = callback.surviving(trainer.train)
    trainer.log = callback.with_metrics(trainer.log)
    trainer.evaluate = callback.flushed(trainer.evaluate)
    trainer.predict = callback.flushed(trainer.predict)
    return callback


class GeoCallback(TrainerCallback):
    """Drives an engine from Trainer's events."""

    def __init__(self, trainer: Trainer, session: Session) -> None:
        self._trainer = trainer
        self._session = session
        self.engine: Engine | None = None
        """None outside of training."""
        self._resume_from: str | None = None
        self._summary: dict[str, object] | None = None

    def summary(self) -> dict[str, object] | None:
        """What was done, ready for JSON; None before training."""
        return self.engine.summary() if self.engine is not None else self._summary

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs) -> None:
        session, trainer = self._session, self._trainer
        if session.config.sync.optimizer_in_backward and (
            args.max_grad_norm or trainer.accelerator.scaler is not None
        ):
            raise ValueError(
                "sync.optimizer_in_backward: gradients cannot be clipped or scaled, they are used up inside backward; "
                "set max_grad_norm to 0 and use no fp16, or set it to false."
            )
        sample_order_is_agreed(train_dataloader)
        if trainer.is_deepspeed_enabled:
            from geo_accel.integrations.deepspeed import make_engine

            self.engine = make_engine(trainer.model_wrapped, session, max_steps=state.max_steps)
            if self._resume_from:
                trainer.model_wrapped.load_checkpoint(self._resume_from)
            return
        keep_gradients_in_site(trainer.model_wrapped, session)
        refuse_what_else_crosses(trainer.accelerator, session.topology)
        self.engine = session.engine(
            bare_model(trainer.model),
            optimizer=trainer.optimizer,
            is_last_micro_batch=lambda: trainer.accelerator.sync_gradients,
            max_steps=state.max_steps,
        )
        if self._resume_from:
            site_state = checkpoint.load(self.engine, self._resume_from)
            if site_state is None:
                logger.warning(
                    "geo_accel: %s holds no sync state; starting afresh from its weights.", self._resume_from
                )
            else:
                for name, part in self._stateful().items():
                    part.load_state_dict(site_state[name])

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.engine.step()
        self._flush_before(control)

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        self._flush_before(control)

    def on_save(self, args, state, control, **kwargs) -> None:
        if self._trainer.is_deepspeed_enabled:
            return  # its own checkpoint holds the sync state
        folder = Path(self._trainer._get_output_dir(trial=None)) / f"checkpoint-{state.global_step}"
        site_state = {name: part.state_dict() for name, part in self._stateful().items()}
        checkpoint.save(self.engine, folder, site_state, self._session.writes_site)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.engine.flush()

    def surviving(self, train: Callable) -> Callable:
        """`train` with its collectives kept in the site; saves what this site has when another is lost."""

        @functools.wraps(train)
        def wrapped(resume_from_checkpoint=None, *args, **kwargs):
            self._resume_from = _resolve(resume_from_checkpoint, self._trainer.args.output_dir)
            try:
                with training_collectives_in_site(self._session.site_group):
                    return train(resume_from_checkpoint, *args, **kwargs)
            except SiteLostError as error:
                raise SiteLostError(f"{error} {self._save_survivor()}") from error
            finally:
                if self.engine is not None:
                    self._summary = self.engine.summary()
                    self.engine.close()
                    self.engine = None

        return wrapped

    def with_metrics(self, log: Callable) -> Callable:
        """`log` with the engine's scalars added to training logs."""

        @functools.wraps(log)
        def wrapped(logs, *args, **kwargs):
            if self.engine is not None and "loss" in logs:
                logs = {**logs, **self.engine.metrics()}
            return log(logs, *args, **kwargs)

        return wrapped

    def flushed(self, evaluate: Callable) -> Callable:
        """`evaluate` on the model that all sites agree on."""

        @functools.wraps(evaluate)
        def wrapped(*args, **kwargs):
            if self.engine is not None:
                self.engine.flush()
            return evaluate(*args, **kwargs)

        return wrapped

    def _flush_before(self, control) -> None:
        """Before saving, evaluating, and before the best model may be loaded over the weights at the end."""
        if control.should_save or control.should_evaluate or control.should_training_stop:
            self.engine.flush()

    def _stateful(self) -> dict[str, object]:
        """What differs between sites: Trainer's own checkpoint holds the main process's only."""
        trainer = self._trainer
        parts = {"optimizer": trainer.optimizer, "scheduler": trainer.lr_scheduler}
        if trainer.accelerator.scaler is not None:
            parts["scaler"] = trainer.accelerator.scaler
        return parts

    def _save_survivor(self) -> str:
        trainer, site = self._trainer, self._session.topology.site.name
        folder = Path(trainer.args.output_dir) / f"survivor-{site}" / f"checkpoint-{trainer.state.global_step}"
        if trainer.is_deepspeed_enabled:
            from geo_accel.integrations.deepspeed import save_alone

            save_alone(trainer.model_wrapped, folder)
            trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        elif self._session.writes_site and self._session.topology.local_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(trainer.model, PreTrainedModel) or hasattr(trainer.model, "save_pretrained"):
                trainer.model.save_pretrained(folder)
            else:
                torch.save(trainer.model.state_dict(), folder / "pytorch_model.bin")
            torch.save(trainer.optimizer.state_dict(), folder / OPTIMIZER_NAME)
            torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
            trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        return f"Saved {site}'s model and optimizer at step {trainer.state.global_step} in {folder}."


def _deal_privately(trainer: Trainer, session: Session) -> None:
    """Shards training data inside the site, and agrees on a number of steps that every site's data covers."""
    get_train_dataloader = trainer.get_train_dataloader

    @functools.wraps(get_train_dataloader)
    def in_site(*args, **kwargs):
        return deal_in_site(get_train_dataloader(*args, **kwargs), session.topology)

    trainer.get_train_dataloader = in_site
    args = trainer.args
    if args.max_steps <= 0:
        per_epoch = max(1, len(in_site()) // args.gradient_accumulation_steps)
        steps = session.control.gather("counting steps", int(per_epoch * args.num_train_epochs))
        args.max_steps = max(1, min(steps))
        logger.info("geo_accel: %d steps, as many as the site with least data has", args.max_steps)


def _resolve(resume: str | bool | None, output_dir: str) -> str | None:
    if resume is True:
        from transformers.trainer_utils import get_last_checkpoint

        return get_last_checkpoint(output_dir)
    return resume or None
