# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Accelerate's checkpoints, with the sync state of every GeoSync and all of each site's own."""

import functools
import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from weakref import WeakKeyDictionary

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME
from accelerate.utils import load as load_safely
from safetensors import safe_open
from torch import nn

from geo_accel.integrations.disks import require_own_folder
from geo_accel.integrations.session import Session
from geo_accel.integrations.site_state import SiteState
from geo_accel.sync import checkpoint
from geo_accel.sync.engine import Engine
from geo_accel.sync.every_rank import on_every_rank
from geo_accel.transport.errors import SiteLostError

logger = logging.getLogger("geo_accel")

_WRAPPED = ("save_state", "load_state", "save_model")
_joined: "WeakKeyDictionary[Accelerator, Checkpoints]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Member:
    """One GeoSync of an accelerator."""

    engine: Engine
    session: Session
    optimizer: torch.optim.Optimizer | None
    survive: Callable[[SiteLostError], NoReturn]
    """Saves what this site has, and raises."""


class Checkpoints:
    """What `save_state`, `load_state` and `save_model` of one accelerator do while it has a GeoSync, or several.

    The sync state of its first model lies in `geo_accel/`, of the next in `geo_accel_1/`, as Accelerate numbers its
    own files. The first GeoSync's holds the site's state: all that the accelerator prepared.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._members: dict[int, Member] = {}
        self._loaded_from = ""
        """The folder that Accelerate reads, as soon as it has said so."""
        self._before = {name: vars(accelerator).get(name) for name in _WRAPPED}
        for name in _WRAPPED:
            setattr(accelerator, name, self._surviving(getattr(self, f"_{name}")(getattr(accelerator, name))))
        self._hooks = [
            accelerator.register_save_state_pre_hook(lambda models, weights, folder: self._save(folder)),
            accelerator.register_load_state_pre_hook(lambda models, folder: self._note(folder)),
        ]

    @classmethod
    def join(cls, accelerator: Accelerator, model: nn.Module, member: Member) -> "Checkpoints":
        """The accelerator's, with one GeoSync more; the same model's earlier one makes way."""
        if accelerator not in _joined:
            _joined[accelerator] = cls(accelerator)
        _joined[accelerator]._members[_index_of(model, accelerator._models)] = member
        return _joined[accelerator]

    def leave(self, engine: Engine) -> None:
        """Without its last GeoSync the accelerator has its own methods back."""
        for index in [index for index, member in self._members.items() if member.engine is engine]:
            del self._members[index]
        if not self._members and _joined.get(self._accelerator) is self:
            del _joined[self._accelerator]
            for hook in self._hooks:
                hook.remove()
            for name, before in self._before.items():
                vars(self._accelerator).pop(name, None)
                if before is not None:
                    setattr(self._accelerator, name, before)

    def site_state(self) -> SiteState:
        """Whatever was prepared or given by now."""
        given = [member.optimizer for member in self._members.values() if member.optimizer is not None]
        return SiteState(self._accelerator, given)

    def _in_order(self) -> list[tuple[str, Member]]:
        """By the name of the folder, in the same order on every rank."""
        return [
            (f"{checkpoint.FOLDER}_{index}" if index else checkpoint.FOLDER, self._members[index])
            for index in sorted(self._members)
        ]

    def _flush(self) -> None:
        for _, member in self._in_order():
            member.engine.flush()

    def _everywhere(self, what: str, action: Callable[[], object]) -> None:
        def act() -> None:
            action()

        on_every_rank(self._in_order()[0][1].engine.control, what, act)

    def _surviving(self, method: Callable) -> Callable:
        @functools.wraps(method)
        def wrapped(*args: object, **kwargs: object) -> object:
            try:
                return method(*args, **kwargs)
            except SiteLostError as error:
                self._in_order()[0][1].survive(error)

        return wrapped

    def _save_state(self, save_state: Callable) -> Callable:
        @functools.wraps(save_state)
        def wrapped(*args: object, **kwargs: object) -> object:
            saved_in = ""

            def save() -> None:
                nonlocal saved_in
                saved_in = save_state(*args, **kwargs)

            self._flush()  # before anything can fail: whoever fails does not flush
            self._everywhere(_named("saving", "output_dir", args, kwargs), save)
            _warn_without_weights(Path(saved_in))
            return saved_in

        return wrapped

    def _save_model(self, save_model: Callable) -> Callable:
        @functools.wraps(save_model)
        def wrapped(*args: object, **kwargs: object) -> object:
            self._flush()
            return save_model(*args, **kwargs)

        return wrapped

    def _load_state(self, load_state: Callable) -> Callable:
        @functools.wraps(load_state)
        def wrapped(*args: object, **kwargs: object) -> object:
            what, loaded = _named("loading", "input_dir", args, kwargs), None

            def load() -> None:
                nonlocal loaded
                self._note("")
                try:
                    loaded = load_state(*args, **kwargs)
                except Exception as error:
                    damaged = self._loaded_from and _first_damaged(Path(self._loaded_from))
                    if damaged:
                        raise ValueError(f"{damaged} Copy the checkpoint again.") from error
                    raise
                self._require_random_states(Path(self._loaded_from))

            for _, member in self._in_order():
                member.engine.settle()
            self._everywhere(what, load)
            found = [checkpoint.load(member.engine, self._loaded_from, name) for name, member in self._in_order()]
            if any(state is not None for state in found):
                states = next((state for state in found if state), {})
                self._everywhere(what, lambda: self.site_state().load_state_dict(states))
            return loaded

        return wrapped

    def _note(self, folder: str) -> None:
        self._loaded_from = folder

    def _save(self, folder: str) -> None:
        require_own_folder(folder, self._in_order()[0][1].session)
        for number, (name, member) in enumerate(self._in_order()):
            # All of a site's optimizers once, however many models it has.
            states = self.site_state().state_dict() if number == 0 and member.session.writes_site else {}
            checkpoint.save(member.engine, folder, states, member.session.writes_site, name)

    def _require_random_states(self, folder: Path) -> None:
        """Accelerate goes on without them, and says so to its debug log alone."""
        rank = self._accelerator.process_index
        path = folder / f"{RNG_STATE_NAME}_{rank}.pkl"
        if not any(
            (folder / name / checkpoint.record_name(one.session.topology)).exists() for name, one in self._in_order()
        ):
            return
        try:
            load_safely(path)
        except FileNotFoundError:
            raise ValueError(f"{path.name} is missing; was the checkpoint copied whole?") from None
        except Exception as error:
            raise ValueError(f"{path.name} is damaged ({error}). Copy the checkpoint again.") from error


def _index_of(model: nn.Module, models: list[nn.Module]) -> int:
    """The place of `model` among the prepared ones, whatever is wrapped around either."""
    own = {id(parameter) for parameter in model.parameters()}
    return next(
        (i for i, other in enumerate(models) if own == {id(parameter) for parameter in other.parameters()}),
        len(models),
    )


def _named(verb: str, keyword: str, args: tuple, kwargs: dict) -> str:
    folder = args[0] if args else kwargs.get(keyword)
    return f"{verb} {folder}" if folder else verb


def _warn_without_weights(folder: Path) -> None:
    if not any(folder.glob(pattern) for pattern in ("model*.safetensors", "pytorch_model*")):
        logger.warning(
            "geo_accel: %s holds no weights on this machine, which could not resume from it: the first machine alone "
            "wrote them. With disks of their own, pass ProjectConfiguration(save_on_each_node=True) to Accelerator.",
            folder,
        )


def _first_damaged(folder: Path) -> str | None:
    """Looked for when loading has failed: libraries do not name the file."""
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix in (".bin", ".pkl") and (bad := zipfile.ZipFile(path).testzip()):
                return f"{path.name} is damaged (in {bad})."
        except Exception as error:
            return f"{path.name} is damaged ({error})."
    return None
