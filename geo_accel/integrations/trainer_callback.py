# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What geo_accel does in Trainer's events and around its methods: the life of one engine per training."""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable

from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy, get_last_checkpoint, has_length

from geo_accel.integrations import trainer_seam as seam
from geo_accel.integrations.data import sample_order_is_agreed
from geo_accel.integrations.gradients import bare_model, require_wrapped
from geo_accel.integrations.session import Session, is_deepspeed
from geo_accel.integrations.trainer_decisions import SAVE, Decisions, Epochs
from geo_accel.integrations.trainer_saving import Saving
from geo_accel.sync import checkpoint
from geo_accel.sync.engine import Engine
from geo_accel.transport.errors import SiteLostError

logger = logging.getLogger("geo_accel")

ALIKE = (
    "save_strategy",
    "save_only_model",
    "eval_strategy",
    "eval_delay",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
)
"""Arguments by which Trainer decides when it saves and evaluates, and what is the best model."""
GRACE_S = 20.0
"""What a machine that was told to stop is taken to have left: launchers and schedulers kill after 30 s as a rule."""


class GeoCallback(TrainerCallback):
    """Drives an engine from Trainer's events."""

    def __init__(self, trainer: Trainer, session: Session, saving: Saving) -> None:
        self._trainer = trainer
        self._session = session
        self._saving = saving
        self.engine: Engine | None = None
        """None outside of training."""
        self._decisions: Decisions | None = None
        self._resume_from: str | None = None
        self._ignore_keys: list[str] | None = None
        self._summary: dict[str, object] | None = None
        self._step_s = self._stepped_at = 0.0

    def summary(self) -> dict[str, object] | None:
        """What was done, ready for JSON; None before training."""
        return self.engine.summary() if self.engine is not None and self._summary is None else self._summary

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: object = None,
        **kwargs: object,
    ) -> None:
        session, trainer = self._session, self._trainer
        if session.config.sync.optimizer_in_backward and (
            args.max_grad_norm or trainer.accelerator.scaler is not None
        ):
            raise ValueError(
                "sync.optimizer_in_backward: gradients cannot be clipped or scaled, they are used up inside backward; "
                "set max_grad_norm to 0 and use no fp16, or set it to false."
            )
        sample_order_is_agreed(train_dataloader, session)
        self._summary = None
        strategies = {name: str(getattr(args, name)) for name in ALIKE}
        strategies |= {"save_steps": state.save_steps, "eval_steps": state.eval_steps}
        facts = {"max_steps": state.max_steps, **strategies}
        if trainer.is_deepspeed_enabled:
            from geo_accel.integrations.deepspeed import make_engine

            assert is_deepspeed(trainer.model_wrapped)
            engine = make_engine(trainer.model_wrapped, session, facts=facts)
        else:
            assert trainer.model is not None
            require_wrapped(trainer.model_wrapped, session)
            if session.one_world:
                from geo_accel.integrations.one_world.gradients import keep_gradients_in_site, refuse_what_else_crosses

                keep_gradients_in_site(trainer.model_wrapped, session)
                refuse_what_else_crosses(trainer.accelerator, session.topology)
            engine = session.engine(
                bare_model(trainer.model),
                optimizer=trainer.optimizer,
                is_last_micro_batch=lambda: trainer.accelerator.sync_gradients,
                facts=facts,
            )
        self.engine = engine
        lengths = session.control.gather("counting steps per epoch", _steps_per_epoch(trainer, train_dataloader))
        self._decisions = Decisions(engine, session.control.gather, Epochs.of(lengths), self._saving.write_what_waits)
        self._saving.begin(engine, self._decisions)
        if self._resume_from and is_deepspeed(trainer.model_wrapped):
            trainer.model_wrapped.load_checkpoint(self._resume_from)
        elif self._resume_from:
            self._load_site_state(engine, self._resume_from)

    def _load_site_state(self, engine: Engine, folder: str) -> None:
        site_state = checkpoint.load(engine, folder)
        if site_state is None:
            logger.warning("geo_accel: %s holds no sync state; starting afresh from its weights.", folder)
        else:
            for name, part in self._saving.stateful().items():
                part.load_state_dict(site_state[name])

    def deciding(self, call_event: Callable) -> Callable:
        """`call_event` (all callbacks of an event) with geo_accel's decisions after them all."""

        @functools.wraps(call_event)
        def wrapped(
            event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
        ) -> TrainerControl:
            if event == "on_epoch_end":
                self._saving.position.end_pass()
            elif event == "on_step_begin":
                self._stepped_at = time.monotonic()
            elif event == "on_step_end":
                self._step_s = time.monotonic() - self._stepped_at
            control = call_event(event, args, state, control, **kwargs)
            if self._decisions is not None and event != "on_train_end":
                self._decisions.after(event, args, state, control)
            return control

        return wrapped

    def save_and_stop(self) -> None:
        """What a signal to one process asks for, on all sites; Trainer's callback stops.

        Where steps take so long that it may be killed before, it first writes what it has, as a survivor does.
        """
        if self._decisions is None or self.engine is None:
            return
        self._decisions.wish(SAVE)
        plan = self.engine.plan
        steps = plan.period + plan.delay if plan is not None else 2
        logger.warning("geo_accel: told to save and stop; all sites do so together, within about %d steps.", steps)
        alone = self._saving.disk.writes_site and not self._trainer.is_deepspeed_enabled  # whose ranks save together
        if alone and steps * self._step_s > GRACE_S:
            logger.warning("geo_accel: that may be too late. %s", self._saving.save_survivor())

    def together(self, finalize: Callable) -> Callable:
        """`finalize` (what Trainer does after its loop) once all sites are at the same step."""

        @functools.wraps(finalize)
        def wrapped(trial: object, *args: object, **kwargs: object) -> object:
            trainer, decisions, engine = self._trainer, self._decisions, self.engine
            assert decisions is not None and engine is not None  # in training they are there
            if not decisions.ending and not decisions.stop_here(trainer.control):
                logger.warning(
                    "geo_accel: this site's training ends at step %d; it waits for the others to stop.",
                    trainer.state.global_step,
                )
                self._idle(decisions, trial)
            if decisions.end(trainer.control):
                self._log_save_evaluate(trial)
            self._summary = engine.summary()
            with self._saving.writing():
                return finalize(trial, *args, **kwargs)

        return wrapped

    def _idle(self, decisions: Decisions, trial: object) -> None:
        """Steps without training, in which this site goes on meeting the others until all stop at the same one."""
        trainer, handler = self._trainer, self._trainer.callback_handler
        while not decisions.ending:
            trainer.control = handler.on_step_begin(trainer.args, trainer.state, trainer.control)
            trainer.state.global_step += 1
            trainer.control = handler.on_step_end(trainer.args, trainer.state, trainer.control)
            self._log_save_evaluate(trial)
            if trainer.control.should_epoch_stop:  # all sites' epochs end here, and what is done then is agreed on
                trainer.control = handler.on_epoch_end(trainer.args, trainer.state, trainer.control)
                self._log_save_evaluate(trial)
                trainer.control = handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)

    def _log_save_evaluate(self, trial: object) -> None:
        trainer = self._trainer
        trainer._maybe_log_save_evaluate(
            trainer._tr_loss, None, trainer.model_wrapped, trial, trainer.state.epoch, self._ignore_keys, time.time()
        )

    def alike(self, determine: Callable) -> Callable:
        """`determine` (whether this is the best model so far) from the same number on all sites: their mean."""

        @functools.wraps(determine)
        def wrapped(metrics: dict[str, float], trial: object) -> bool:
            name, decisions = self._trainer.args.metric_for_best_model, self._decisions
            if decisions is None or name is None:
                return determine(metrics=metrics, trial=trial)
            name = name if name.startswith("eval_") else f"eval_{name}"
            values = self._session.control.gather("comparing evaluations", metrics.get(name))
            if None in values:
                metrics = {key: value for key, value in metrics.items() if key != name}
            elif len(set(values)) > 1:
                metrics = {**metrics, name: math.fsum(values) / len(values)}
            is_best = determine(metrics=metrics, trial=trial)
            if is_best and self._trainer.args.save_strategy == SaveStrategy.BEST:
                decisions.allow_save()
            return is_best

        return wrapped

    def resuming(self, init_training_state: Callable) -> Callable:
        """`init_training_state` (epoch and batches to skip) with a stream's own position."""

        @functools.wraps(init_training_state)
        def wrapped(
            max_steps: int,
            num_update_steps_per_epoch: int,
            num_train_epochs: int,
            resume_from_checkpoint: str | None,
            trial: object,
        ) -> tuple[int, int]:
            epochs, batches = init_training_state(
                max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
            )
            epochs, skipped = self._saving.position.resume(resume_from_checkpoint, epochs, batches, num_train_epochs)
            return epochs, 0 if self._trainer.args.ignore_data_skip else skipped

        return wrapped

    def counting(self, get_batch_samples: Callable) -> Callable:
        """`get_batch_samples` with its batches counted."""

        @functools.wraps(get_batch_samples)
        def wrapped(*args: object, **kwargs: object) -> tuple[list, object]:
            batches, items = get_batch_samples(*args, **kwargs)
            self._saving.position.took(len(batches))
            return batches, items

        return wrapped

    def surviving(self, train: Callable) -> Callable:
        """`train` with its collectives kept in the site; saves what this site has when another is lost."""

        @functools.wraps(train)
        def wrapped(
            resume_from_checkpoint: str | bool | None = None,
            trial: object = None,
            ignore_keys_for_eval: list[str] | None = None,
            **kwargs: object,
        ) -> object:
            self._resume_from = _resolve(resume_from_checkpoint, seam.output_dir(self._trainer.args))
            self._ignore_keys = ignore_keys_for_eval
            try:
                with contextlib.ExitStack() as in_site:
                    self._keep_in_site(in_site)
                    return train(resume_from_checkpoint, trial, ignore_keys_for_eval, **kwargs)
            except SiteLostError as error:
                raise SiteLostError(f"{error} {self._saving.save_survivor()}") from error
            finally:
                if self.engine is not None:
                    self._summary = self.summary()
                    self.engine.close()
                    self.engine = self._decisions = None
                    self._saving.close()

        return wrapped

    def _keep_in_site(self, stack: contextlib.ExitStack) -> None:
        """Where one job spans the sites: what Trainer and trl gather in training, until the stack ends."""
        if not self._session.one_world:
            return
        from geo_accel.integrations.one_world.metrics_seam import metrics_in_site
        from geo_accel.integrations.one_world.trainer_seam import training_collectives_in_site

        group = self._session.site_group
        assert group is not None  # such a job has process groups
        stack.enter_context(training_collectives_in_site(group, lambda: self.engine is not None))
        stack.enter_context(metrics_in_site(self._trainer, group))

    def with_metrics(self, log: Callable) -> Callable:
        """`log` with the engine's scalars added to training logs."""

        @functools.wraps(log)
        def wrapped(logs: dict[str, float], *args: object, **kwargs: object) -> object:
            if self.engine is not None and "loss" in logs:
                logs = {**logs, **self.engine.metrics()}
            return log(logs, *args, **kwargs)

        return wrapped

    def flushed(self, evaluate: Callable) -> Callable:
        """`evaluate` on the model that all sites agree on."""

        @functools.wraps(evaluate)
        def wrapped(*args: object, **kwargs: object) -> object:
            if self.engine is not None:
                self.engine.flush()
            return evaluate(*args, **kwargs)

        return wrapped


def _steps_per_epoch(trainer: Trainer, loader: object) -> int | None:
    """Optimizer steps that this rank's data are good for; None for a stream, whatever length it states."""
    if not has_length(loader) or isinstance(getattr(loader, "dataset", None), IterableDataset):
        return None
    return max(1, math.ceil(len(loader) / trainer.args.gradient_accumulation_steps))


def _resolve(resume: str | bool | None, output_dir: str) -> str | None:
    if resume is True:
        return get_last_checkpoint(output_dir)
    return resume or None
