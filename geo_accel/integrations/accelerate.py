# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Accelerate: `GeoSync` around a training loop, where `accelerate.local_sgd.LocalSGD` would stand."""

import functools
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import nn

from geo_accel.integrations.data import sample_order_is_agreed
from geo_accel.integrations.gradients import bare_model, keep_gradients_in_site, refuse_what_else_crosses
from geo_accel.integrations.session import ConfigSource, Session, connect, is_deepspeed
from geo_accel.sync import checkpoint
from geo_accel.sync.engine import Engine
from geo_accel.transport.errors import SiteLostError


class Training(Protocol):
    """What drives the model between two calls of `GeoSync.step`: Accelerate's loop or a DeepSpeed engine."""

    session: Session
    engine: Engine

    def stepped(self) -> bool:
        """Whether the iteration that ends here took an optimizer step."""

    def save_alone(self, folder: Path) -> None:
        """Saves this site's model and optimizer without any other site."""

    def release(self) -> None:
        """Gives everything that was replaced its own methods back."""


class GeoSync:
    """Keeps a prepared model's replicas together across sites, in place of a gradient all-reduce between them.

    Construct it after `accelerator.prepare` and before `accelerator.load_state`; call `step()` after every
    `optimizer.step()`, micro-batches included. `accelerator.save_state` and `load_state` include the sync state.
    When a site is lost, `step` writes this site's state below `accelerator.project_dir` (or the working directory)
    and raises SiteLostError with the site's name and that folder's.

        model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
        with GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config="geo.json") as geo:
            for batch in loader:
                with accelerator.accumulate(model):
                    ...
                geo.step()

    With DeepSpeed, call `keep_deepspeed_in_site` before the model is prepared; a model of `deepspeed.initialize` needs
    no accelerator, and `model.save_checkpoint` and `load_checkpoint` include the sync state.
    """

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        config: ConfigSource = None,
        enabled: bool = True,
    ) -> None:
        """Connects the sites; collective. `optimizer` is the prepared one, whose state is local to a site.

        Raises ConfigError, ValueError (sites that differ, unsupported wrappers) or SiteLostError (peers that do not
        come).
        """
        if model is None or (accelerator is None and not is_deepspeed(model)):
            raise ValueError(
                "GeoSync needs accelerator= and model=; with a model of deepspeed.initialize, model= alone."
            )
        self._project = Path(getattr(accelerator, "project_dir", None) or ".")
        self._lost: SiteLostError | None = None
        self._training = _begin(accelerator, model, optimizer, config) if enabled else None
        if self._training is not None and accelerator is not None:
            for loader in accelerator._dataloaders:
                sample_order_is_agreed(loader)

    @property
    def engine(self) -> Engine | None:
        """None where there is nothing to synchronise."""
        return self._training.engine if self._training is not None else None

    def __enter__(self) -> "GeoSync":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._training is not None:
            try:
                if kind is None:
                    self.flush()
                elif isinstance(error, SiteLostError) and error is not self._lost:
                    raise self._saved(error) from error  # it broke off in a collective of the script's own
            finally:
                self.close()

    def step(self) -> None:
        """Marks the end of an iteration; does nothing inside gradient accumulation."""
        if self._training is not None and self._training.stepped():
            self._surviving(self.engine.step)

    def flush(self) -> None:
        """One exact average over all sites; call it before evaluating. Collective."""
        if self._training is not None:
            self._surviving(self.engine.flush)

    def metrics(self) -> dict[str, float]:
        """Scalars for `accelerator.log`."""
        return self.engine.metrics() if self._training is not None else {}

    def summary(self) -> dict[str, object] | None:
        """What was done, ready for JSON; None where geo_accel is off."""
        return self.engine.summary() if self._training is not None else None

    def close(self) -> None:
        """Gives accelerator and model their own methods back and ends the background thread. Does not flush."""
        if self._training is not None:
            self._training.release()
            self.engine.close()

    def _surviving(self, action) -> None:
        try:
            action()
        except SiteLostError as error:
            self._lost = self._saved(error)
            raise self._lost from error

    def _saved(self, error: SiteLostError) -> SiteLostError:
        """Saves what this site has, and says so behind the error's own words."""
        site = self._training.session.topology.site.name
        folder = self._project / f"survivor-{site}"
        self._training.save_alone(folder)
        return SiteLostError(
            f"{error} Saved {site}'s model and optimizer at step {self.engine.step_count} in {folder}."
        )


def _begin(
    accelerator: Accelerator | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    config: ConfigSource,
) -> Training | None:
    """None where there is nothing to synchronise."""
    if is_deepspeed(model):
        from geo_accel.integrations.deepspeed import DeepSpeedTraining, keep_deepspeed_in_site

        session = keep_deepspeed_in_site(config)
        return DeepSpeedTraining(model, session) if session is not None else None
    session = connect(config)
    return AccelerateTraining(accelerator, model, optimizer, session) if session is not None else None


class AccelerateTraining:
    """Accelerate's loop, whose checkpoints include the sync state and each site's own optimizer."""

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer | None, session: Session
    ) -> None:
        self.session = session
        self._accelerator, self._model, self._optimizer = accelerator, model, optimizer
        if session.config.sync.optimizer_in_backward:
            self._refuse_what_needs_all_gradients()
        keep_gradients_in_site(model, session)
        self._begun = False
        self.engine = session.engine(
            bare_model(model),
            optimizer=optimizer,
            other_optimizers=accelerator._optimizers,
            is_last_micro_batch=lambda: accelerator.sync_gradients,
        )
        self._join_checkpoints()

    def stepped(self) -> bool:
        if not self._begun:
            refuse_what_else_crosses(self._accelerator, self.session.topology)
            self._begun = True
        return self._accelerator.sync_gradients

    def save_alone(self, folder: Path) -> None:
        if self.session.writes_site and self.session.topology.local_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(bare_model(self._model).state_dict(), folder / "model.pt")
            torch.save(self._site_state(), folder / "state.pt")

    def release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for name in ("load_state", "clip_grad_norm_", "clip_grad_value_"):
            vars(self._accelerator).pop(name, None)

    def _refuse_what_needs_all_gradients(self) -> None:
        """With `optimizer_in_backward` no gradient outlives its own update: clipping would silently see none."""
        if self._accelerator.scaler is not None:
            raise ValueError("sync.optimizer_in_backward: not with fp16's loss scaling; use bf16, or set it to false.")

        def refuse(*_: object, **__: object) -> None:
            raise ValueError(
                "sync.optimizer_in_backward: gradients cannot be clipped, they are used up inside backward; clip "
                "nothing, or set it to false."
            )

        self._accelerator.clip_grad_norm_ = self._accelerator.clip_grad_value_ = refuse

    def _join_checkpoints(self) -> None:
        accelerator, engine = self._accelerator, self.engine
        loaded_from: list[str] = []

        def save(models: list, weights: list, folder: str) -> None:
            checkpoint.save(engine, folder, self._site_state(), self.session.writes_site)

        def before_load(models: list, folder: str) -> None:
            engine.settle()
            loaded_from[:] = [folder]

        load_state = accelerator.load_state

        @functools.wraps(load_state)
        def load_state_and_sync(*args: object, **kwargs: object) -> None:
            load_state(*args, **kwargs)
            state = checkpoint.load(engine, loaded_from[0])
            if state is not None:
                self._load_site_state(state)

        self._hooks = [
            accelerator.register_save_state_pre_hook(save),
            accelerator.register_load_state_pre_hook(before_load),
        ]
        accelerator.load_state = load_state_and_sync

    def _stateful(self) -> dict[str, object]:
        """What differs between sites: accelerate's own checkpoint holds the main process's only."""
        parts: dict[str, object] = {}
        if self._optimizer is not None:
            parts["optimizer"] = self._optimizer
        for i, scheduler in enumerate(self._accelerator._schedulers):
            parts[f"scheduler_{i}"] = scheduler
        if self._accelerator.scaler is not None:
            parts["scaler"] = self._accelerator.scaler
        return parts

    def _site_state(self) -> dict[str, object]:
        return {name: part.state_dict() for name, part in self._stateful().items()}

    def _load_site_state(self, state: dict) -> None:
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
