# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What differs between sites beside the weights: all that an accelerator prepared and that has a state.

Accelerate writes the main process's only, and gives it to every rank when it loads.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator

from geo_accel.sync.state_files import can_be_read_back
from geo_accel.topology import Topology
from geo_accel.transport.store import ControlPlane
from geo_accel.units import checksum

logger = logging.getLogger("geo_accel")

# Users' own objects, which Accelerate loads with whatever is pickled in them; here only what is safe to read.
_OWN = ("custom_checkpoint", "dl_state_dict")


class SiteState:
    """Optimizers, schedulers, scaler, data loaders and registered objects, under the names of Accelerate's files."""

    def __init__(self, accelerator: Accelerator, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """`optimizers` are those that need not have been prepared."""
        self.optimizers = prepared = list(accelerator._optimizers)
        for optimizer in optimizers:
            if all(_bare(optimizer) is not _bare(other) for other in prepared):
                prepared.append(optimizer)
        loaders = [one for one in accelerator._dataloaders if getattr(one, "use_stateful_dataloader", False)]
        members = {
            "optimizer": prepared,
            "scheduler": accelerator._schedulers,
            "custom_checkpoint": accelerator._custom_objects,
            "dl_state_dict": loaders,
            "scaler": [accelerator.scaler] if accelerator.scaler is not None else [],
        }
        self._parts = {
            f"{kind}_{i}" if i else kind: part for kind, parts in members.items() for i, part in enumerate(parts)
        }

    def state_dict(self) -> dict[str, Any]:
        """By part. Registered objects whose state is not safe to read back are left out, with a warning."""
        states = {name: part.state_dict() for name, part in self._parts.items()}
        for name in [name for name in states if name.startswith(_OWN)]:
            if not can_be_read_back(states[name]):
                logger.warning(
                    "geo_accel: the state of %s holds Python objects, which are not kept per site: when resumed, all "
                    "sites take what Accelerate saved.",
                    type(self._parts[name]).__name__,
                )
                del states[name]
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Raises ValueError where the checkpoint has no state of a part, or one that does not fit."""
        missing = [name for name in self._parts if name not in states and not name.startswith(_OWN)]
        if missing:
            raise ValueError(
                f"it holds no state of this site's {', '.join(missing)} but {', '.join(states) or 'nothing'}: prepare "
                "the same, and construct a GeoSync for the same models, as in the run that saved it."
            )
        for name, part in self._parts.items():
            if name in states:
                try:
                    part.load_state_dict(states[name])
                except Exception as error:
                    raise ValueError(f"the site's {name} does not fit this run's ({error}).") from error


def refuse_what_was_loaded_early(
    control: ControlPlane, topology: Topology, optimizers: Iterable[torch.optim.Optimizer]
) -> None:
    """Raises ValueError where every site's optimizers hold the same state and have taken no step with it. Collective.

    So they are after `load_state`, which gives the main process's state to all, before there is a GeoSync to give each
    site its own. What was trained here is of another kind: an update changes state in place.
    """
    found = control.gather("comparing optimizers", _digest_if_loaded(map(_bare, optimizers)))
    firsts = [found[site.ranks[0]] for site in topology.sites]
    if firsts[0] is not None and all(one == firsts[0] for one in firsts):
        raise ValueError(
            "the optimizer's state was loaded before GeoSync was made, so that every site has the first one's: "
            "construct GeoSync first, then call accelerator.load_state (or optimizer.load_state_dict)."
        )


def _digest_if_loaded(optimizers: Iterable[torch.optim.Optimizer]) -> int | None:
    values = [value for one in optimizers for state in one.state.values() for value in _values(state)]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    # Reading a file changes a tensor once at most, an update more often but for the very first.
    if not tensors or any(tensor._version > 1 for tensor in tensors):
        return None
    return checksum(tensors)


def _values(state: Any) -> Iterable[Any]:
    return state.values() if isinstance(state, Mapping) else [state]


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)
