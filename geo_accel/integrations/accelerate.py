# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Accelerate: `GeoSync` around a training loop, where `accelerate.local_sgd.LocalSGD` would stand."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Protocol

import torch
from accelerate import Accelerator
from torch import nn

from geo_accel.integrations.accelerate_checkpoints import Checkpoints, Member
from geo_accel.integrations.data import deal_over_sites, is_settled, is_shuffled, sample_order_is_agreed
from geo_accel.integrations.gradients import bare_model, require_wrapped
from geo_accel.integrations.session import ConfigSource, Session, connect, is_deepspeed, require_everybody
from geo_accel.integrations.site_state import SiteState, refuse_what_was_loaded_early
from geo_accel.integrations.survivor import SurvivedError, save_survivor
from geo_accel.profile.document import write_whole_folder
from geo_accel.sync.engine import Engine
from geo_accel.sync.state_files import write_unchecked
from geo_accel.transport.errors import SiteLostError

logger = logging.getLogger("geo_accel")


class Training(Protocol):
    """What drives the model between two calls of `GeoSync.step`: Accelerate's loop or a DeepSpeed engine."""

    session: Session
    engine: Engine

    def stepped(self) -> bool:
        """Whether the iteration that ends here took an optimizer step."""

    def save_alone(self, folder: Path) -> bool:
        """Saves this site's models and optimizers without any other site; whether this rank wrote, and all of it."""

    def release(self) -> None:
        """Gives everything that was replaced its own methods back."""


class GeoSync:
    """Keeps a prepared model's replicas together across sites, in place of a gradient all-reduce between them.

    Construct it after `accelerator.prepare` and before `accelerator.load_state`; call `step()` after every
    `optimizer.step()`, micro-batches included. Several models take a GeoSync each. `accelerator.save_state` and
    `load_state` include the sync state and all of each site's own; what fails on one rank is raised on all. When a
    site is lost, `step` writes this site's state below `accelerator.project_dir` (or the working directory) and raises
    SiteLostError with the site's name and that folder's, or why it could not be saved.

        model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
        with GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config="geo.json") as geo:
            for batch in loader:
                with accelerator.accumulate(model):
                    ...
                geo.step()

    A model of `deepspeed.initialize` needs no accelerator; `model.save_checkpoint` and `load_checkpoint` include the
    sync state. In one job over all sites call `keep_deepspeed_in_site` before DeepSpeed prepares the model.
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
        for name, given in (("model", model), ("optimizer", optimizer)):
            if isinstance(given, list | tuple):
                raise ValueError(
                    f"GeoSync: {name}= is a {type(given).__name__} of {len(given)}: construct one GeoSync per model, "
                    "each with its own optimizer=, and call step() of each."
                )
        self._project = Path(getattr(accelerator, "project_dir", None) or ".")
        self._training = _begin(accelerator, model, optimizer, config, self._survive) if enabled else None
        if self._training is not None and accelerator is not None:
            _deal(accelerator, self._training.session)

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
                elif isinstance(error, SiteLostError):
                    self._survive(error)
            finally:
                self.close()

    def step(self) -> None:
        """Marks the end of an iteration; does nothing inside gradient accumulation."""
        if self._training is not None and self._training.stepped():
            self._surviving(self._training.engine.step)

    def flush(self) -> None:
        """One exact average over all sites; call it before evaluating. Collective."""
        if self._training is not None:
            self._surviving(self._training.engine.flush)

    def metrics(self) -> dict[str, float]:
        """Scalars for `accelerator.log`."""
        return self._training.engine.metrics() if self._training is not None else {}

    def summary(self) -> dict[str, object] | None:
        """What was done, ready for JSON; None where geo_accel is off."""
        return self._training.engine.summary() if self._training is not None else None

    def close(self) -> None:
        """Gives accelerator and model their own methods back and ends the background thread. Does not flush."""
        if self._training is not None:
            self._training.release()
            self._training.engine.close()

    def _surviving(self, action: Callable[[], None]) -> None:
        try:
            action()
        except SiteLostError as error:
            self._survive(error)

    def _survive(self, error: SiteLostError) -> NoReturn:
        """Saves what this site has, whatever it was that noticed the loss."""
        if isinstance(error, SurvivedError):
            raise error
        training = self._training
        assert training is not None  # without it nobody waits for a site
        saved = save_survivor(
            training.session.topology, self._project, training.engine.step_count, training.save_alone
        )
        raise SurvivedError(f"{error} {saved}") from error


def _deal(accelerator: Accelerator, session: Session) -> None:
    """Prepared loaders read as those of one job over all sites would."""
    loaders = accelerator._dataloaders
    if session.one_world:
        for loader in loaders:
            sample_order_is_agreed(loader, session)
        return
    settled = [loader for loader in loaders if is_settled(loader)]
    for loader in loaders:
        if loader not in settled and is_shuffled(loader):
            deal_over_sites(loader, session, accelerator.even_batches)
            sample_order_is_agreed(loader, session)
            settled.append(loader)
    # Beside one that is shuffled, others are for evaluation.
    if loaders and not settled and session.topology.rank == 0:
        logger.warning(
            "geo_accel: no dataloader is shuffled, so every site reads all of each, as for evaluation; give the one "
            "for training to geo_accel.shard_over_sites, or private data to geo_accel.shard_in_site."
        )


def _begin(
    accelerator: Accelerator | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    config: ConfigSource,
    survive: Callable[[SiteLostError], NoReturn],
) -> Training | None:
    """None where there is nothing to synchronise. `survive` is called when a site is lost while saving or loading."""
    if is_deepspeed(model):
        from geo_accel.integrations.deepspeed import DeepSpeedTraining, keep_deepspeed_in_site

        session = keep_deepspeed_in_site(config)
        return DeepSpeedTraining(model, session) if session is not None else None
    session = connect(config)
    assert accelerator is not None  # as GeoSync has asked
    return AccelerateTraining(accelerator, model, optimizer, session, survive) if session is not None else None


class AccelerateTraining:
    """Accelerate's loop, whose checkpoints include the sync state and each site's own optimizer."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        session: Session,
        survive: Callable[[SiteLostError], NoReturn],
    ) -> None:
        self.session = session
        self._accelerator, self._model = accelerator, model
        require_everybody("the Accelerator", accelerator.num_processes, session.launched, "cpu=True")
        self._refused: tuple[str, ...] = ()
        if session.config.sync.optimizer_in_backward:
            self._refuse_what_needs_all_gradients()
        refuse_what_was_loaded_early(
            session.control, session.topology, SiteState(accelerator, filter(None, [optimizer])).optimizers
        )
        require_wrapped(model, session)
        if session.one_world:
            from geo_accel.integrations.one_world.gradients import keep_gradients_in_site

            keep_gradients_in_site(model, session)
        self._begun = False
        self.engine = session.engine(
            bare_model(model),
            optimizer=optimizer,
            other_optimizers=accelerator._optimizers,
            is_last_micro_batch=lambda: accelerator.sync_gradients,
        )
        self._checkpoints = Checkpoints.join(accelerator, model, Member(self.engine, session, optimizer, survive))

    def stepped(self) -> bool:
        if not self._begun and self.session.one_world:
            from geo_accel.integrations.one_world.gradients import refuse_what_else_crosses

            refuse_what_else_crosses(self._accelerator, self.session.topology)
        self._begun = True
        return self._accelerator.sync_gradients

    def save_alone(self, folder: Path) -> bool:
        if self.session.topology.local_index != 0:
            return False

        def write(folder: Path) -> None:
            for i, model in enumerate(self._accelerator._models or [self._model]):
                name = f"model_{i}.pt" if i else "model.pt"
                write_unchecked(folder / name, bare_model(model).state_dict())
            write_unchecked(folder / "state.pt", self._checkpoints.site_state().state_dict())

        write_whole_folder(folder, write)
        return True

    def release(self) -> None:
        self._checkpoints.leave(self.engine)
        for name in self._refused:
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

        self._refused = ("clip_grad_norm_", "clip_grad_value_")
        for name in self._refused:
            setattr(self._accelerator, name, refuse)
