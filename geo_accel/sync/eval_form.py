# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Optimizers that train other weights than those that are used: schedule-free ones.

Their `train()` and `eval()` change the parameters from one form to the other, by what their state holds. Rounds and
anchors know the training form; after a flush sites must be alike in both, so that state is part of a flush.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from geo_accel.sync.rest import Entry
from geo_accel.units import Unit


class EvalForm:
    """The second form of one optimizer's weights; nothing at all for an optimizer without `train()` and `eval()`."""

    def __init__(self, optimizer: torch.optim.Optimizer | None, units: Sequence[Unit]) -> None:
        """`optimizer` is torch's own or a like, not a wrapper of Accelerate's.

        Raises ValueError for one with two forms whose parameters are not the model's own (DeepSpeed's masters).
        """
        two = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
        self._optimizer = optimizer if two else None
        self._parameters = [named for unit in units for named in unit.parameters]
        self._keys: tuple[str, ...] | None = None
        if two:
            held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            if not any(id(parameter) in held for _, parameter in self._parameters):
                raise ValueError(
                    f"{type(optimizer).__name__} keeps other weights for training than for use, and here they are not "
                    "the model's own: sites would not agree. Use it without DeepSpeed, or another optimizer."
                )

    @contextmanager
    def in_training_form(self) -> Iterator[None]:
        """Inside the block the parameters are as they are trained; afterwards they are what they were before."""
        if self._optimizer is None:
            yield
            return
        before = self._sums()
        self._optimizer.train()
        # Nothing public says which form it was in; what was changed says it.
        was_eval = before != self._sums()
        try:
            yield
        finally:
            if was_eval:
                self._optimizer.eval()

    def entries(self) -> list[Entry]:
        """What the form for use is computed from besides the weights, by parameter; to be asked in training form."""
        if self._optimizer is None:
            return []
        if self._keys is None:
            self._keys = self._find_keys()
        state = self._optimizer.state
        found = []
        for name, parameter in self._parameters:
            held = state.get(parameter) or {}
            tensors = tuple(held[key] for key in self._keys or () if key in held)
            # A parameter without state is used as it is trained: where one site has none, none keeps any.
            forget = partial(state.pop, parameter, None)
            found.append(Entry(name=f"the optimizer's state of {name}", tensors=tensors, forget=forget))
        return found

    def _sums(self) -> list[float]:
        with torch.no_grad():
            return torch.stack([parameter.sum(dtype=torch.float64) for _, parameter in self._parameters]).tolist()

    @torch.no_grad()
    def _find_keys(self) -> tuple[str, ...] | None:
        """The state that `eval()` reads, by trying it on one small parameter; None where there is no state yet."""
        optimizer = self._optimizer
        candidates = [p for _, p in self._parameters if _like(p, optimizer.state.get(p) or {})]
        if not candidates:
            return None
        parameter = min(candidates, key=torch.Tensor.numel)
        state = optimizer.state[parameter]
        kept = {key: state[key].clone() for key in _like(parameter, state)}
        weights, groups = parameter.clone(), list(optimizer.param_groups)
        group = next(group for group in groups if any(parameter is other for other in group["params"]))
        optimizer.param_groups[:] = [{**group, "params": [parameter]}]

        def used() -> torch.Tensor:
            optimizer.eval()
            form = parameter.clone()
            optimizer.train()
            parameter.copy_(weights)
            return form

        try:
            plain, found = used(), []
            for key, value in kept.items():
                state[key].add_(1)
                if not torch.equal(used(), plain):
                    found.append(key)
                state[key].copy_(value)
        finally:
            optimizer.param_groups[:] = groups
        if not found and not torch.equal(plain, weights):
            raise ValueError(
                f"{type(optimizer).__name__}.eval() changes the weights by something that is not in its state, so "
                "sites cannot agree on it: use another optimizer."
            )
        return tuple(found)


def _like(parameter: torch.Tensor, state: dict) -> list[str]:
    """The keys of what may be another copy of the parameter."""
    return [
        key
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.is_floating_point()
    ]
