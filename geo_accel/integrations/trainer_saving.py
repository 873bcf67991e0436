# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What Trainer writes: agreed weights and all of a site's state, on every disk that a site has."""

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from geo_accel.integrations import trainer_seam as seam
from geo_accel.integrations.disks import Disk
from geo_accel.integrations.session import Session, is_deepspeed
from geo_accel.integrations.trainer_decisions import FLUSH, SAVE, Decisions
from geo_accel.integrations.trainer_stream import StreamPosition
from geo_accel.sync import checkpoint
from geo_accel.sync.engine import Engine
from geo_accel.sync.every_rank import on_every_rank

logger = logging.getLogger("geo_accel")


_FILES = {"optimizer": OPTIMIZER_NAME, "scheduler": SCHEDULER_NAME, "scaler": SCALER_NAME}
"""Trainer's own, by part of the state."""


class Stateful(Protocol):
    """An optimizer or the like."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class Saving:
    """Trainer's ways of writing weights. Outside of training they are its own, on every site's disk."""

    def __init__(self, trainer: Trainer, session: Session, disk: Disk) -> None:
        self._trainer, self._session, self.disk = trainer, session, disk
        self._engine: Engine | None = None
        self._decisions: Decisions | None = None
        self._later: list[Callable[[], object]] = []
        self._together = False
        """Whether all ranks are in the same save."""
        self.position = StreamPosition(session.topology.own_name)

    def begin(self, engine: Engine, decisions: Decisions) -> None:
        self._engine, self._decisions = engine, decisions
        self._later.clear()

    def close(self) -> None:
        self._engine = self._decisions = None

    def stateful(self) -> dict[str, Stateful]:
        """What differs between sites: Trainer's own checkpoint holds one process's only."""
        trainer = self._trainer
        assert trainer.optimizer is not None and trainer.lr_scheduler is not None  # in training they are there
        parts: dict[str, Stateful] = {"optimizer": trainer.optimizer, "scheduler": trainer.lr_scheduler}
        if trainer.accelerator.scaler is not None:
            parts["scaler"] = trainer.accelerator.scaler
        return parts

    def whole(self, save_checkpoint: Callable) -> Callable:
        """`save_checkpoint` with the sync state and every site's own, when all sites save.

        Called by one site alone (a callback, a signal) it writes nothing yet: all sites save a few steps later.
        """

        @functools.wraps(save_checkpoint)
        def wrapped(model: nn.Module, trial: object) -> None:
            trainer = self._trainer
            if self._decisions is not None and not self._decisions.may_save:
                self._decisions.wish(SAVE)
                logger.warning(
                    "geo_accel: a checkpoint at step %d was asked for on this site; all sites save together, a few "
                    "steps from now.",
                    trainer.state.global_step,
                )
                return
            folder = Path(trainer._get_output_dir(trial=trial)) / f"checkpoint-{trainer.state.global_step}"
            if self._engine is not None and not trainer.args.save_only_model:
                self._on_every_rank(folder, lambda: self.position.save(folder))
                if not trainer.is_deepspeed_enabled:  # whose own checkpoint holds the sync state
                    site_state = {name: part.state_dict() for name, part in self.stateful().items()}
                    checkpoint.save(self._engine, folder, site_state, self.disk.writes_site)
            with self.writing():
                self._on_every_rank(folder, lambda: save_checkpoint(model, trial))

        return wrapped

    def _on_every_rank(self, what: object, write: Callable[[], object]) -> None:
        """Does `write` here, while all ranks do. What fails on one (a full disk) is raised on all."""

        def written() -> None:
            before, self._together = self._together, True
            try:
                write()
            finally:
                self._together = before

        on_every_rank(self._session.control, f"saving {what}", written)

    def agreed(self, write: Callable) -> Callable:
        """`write` (a method of Trainer that writes weights) when the weights are agreed ones.

        In the midst of training they may be this site's own: then it is called later, at a boundary at which all
        sites have averaged, and returns None now.
        """

        @functools.wraps(write)
        def wrapped(*args: object, **kwargs: object) -> object:
            if self._decisions is None or self._decisions.flushed:
                with self.writing(gathers=True):
                    if not self._together:
                        return write(*args, **kwargs)
                    # Once it has written weights Trainer waits for all, who must not wait for one that could not.
                    return self._on_every_rank("the model", lambda: write(*args, **kwargs))
            self._later.append(lambda: wrapped(*args, **kwargs))
            self._decisions.wish(FLUSH)
            logger.warning(
                "geo_accel: %s at step %d: sites have not averaged since their last update; it is done a few steps "
                "from now, with the weights that they then agree on.",
                write.__name__,
                self._trainer.state.global_step,
            )

        return wrapped

    def write_what_waits(self) -> None:
        """All sites hold the same weights: does what was put off."""
        waiting, self._later = self._later, []
        for write in waiting:
            write()

    def writing(self, gathers: bool = False) -> AbstractContextManager[None]:
        """Inside the block Trainer writes once on each disk; with `gathers` it has whole weights to write there."""
        return seam.writing(self._trainer.args, self.disk.writes_whole, gathers)

    def save_survivor(self) -> str:
        """Saves this site's model and optimizer, without any other site; says what became of it."""
        trainer, topology = self._trainer, self._session.topology
        site = topology.site.name
        folder = Path(seam.output_dir(trainer.args)) / f"survivor-{site}" / f"checkpoint-{trainer.state.global_step}"
        what = f"{site}'s model and optimizer at step {trainer.state.global_step}"
        try:
            if trainer.is_deepspeed_enabled:
                from geo_accel.integrations.deepspeed import save_alone

                assert is_deepspeed(trainer.model_wrapped)
                save_alone(trainer.model_wrapped, folder)
                if self.disk.writes_site:
                    trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            elif self.disk.writes_site:
                self._write_alone(folder)
            else:
                return f"Another rank of {site} saves {what} in {folder}."
        except (OSError, RuntimeError) as error:
            return f"{what} could not be saved in {folder} ({type(error).__name__}: {error})."
        return f"Saved {what} in {folder}."

    def _write_alone(self, folder: Path) -> None:
        """An ordinary checkpoint; Trainer's state last, without which none is one."""
        trainer = self._trainer
        folder.mkdir(parents=True, exist_ok=True)
        with seam.writing(trainer.args, True):
            trainer._save(str(folder))
        for name, part in self.stateful().items():
            torch.save(part.state_dict(), folder / _FILES[name])
        trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))
