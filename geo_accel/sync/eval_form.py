# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Optimizers that train other weights than those that are used: schedule-free ones.

Their `train()` and `eval()` change the parameters from one form to the other, by what their state holds. Rounds and
anchors know the training form; after a flush sites must be alike in both, so that state is part of a flush.
"""

from collections.abc import Generator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, TypeGuard

import torch

from geo_accel.sync.rest import Entry
from geo_accel.units import Unit


class EvalForms:
    """The second form of one model's weights, where any of its optimizers has `train()` and `eval()`."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer | None], units: Sequence[Unit]) -> None:
        """`optimizers` are torch's own or alike, or wrappers with such a one as `optimizer`; each counts once.

        Raises ValueError for one with two forms, where none of them has the model's own parameters (but DeepSpeed's
        masters).
        """
        own = {id(o): o for o in (getattr(one, "optimizer", one) for one in optimizers) if o is not None}.values()
        two = [one for one in own if _has_two_forms(one)]
        named = [(name, parameter) for unit in units for name, parameter in unit.parameters]
        held = {id(one): {id(p) for group in one.param_groups for p in group["params"]} for one in own}
        if two and not any(id(parameter) in ids for ids in held.values() for _, parameter in named):
            raise ValueError(
                f"{type(two[0]).__name__} keeps other weights for training than for use, and here they are not the "
                "model's own: sites would not agree. Use it without DeepSpeed, or another optimizer."
            )
        self._forms = [
            _EvalForm(one, [named_one for named_one in named if id(named_one[1]) in held[id(one)]]) for one in two
        ]

    @contextmanager
    def in_training_form(self) -> Generator[None]:
        """Inside the block the parameters are as they are trained; afterwards they are what they were before."""
        with ExitStack() as stack:
            for form in self._forms:
                stack.enter_context(form.in_training_form())
            yield

    def entries(self) -> list[Entry]:
        """What the form for use is computed from besides the weights, by parameter; to be asked in training form."""
        return [entry for form in self._forms for entry in form.entries()]


class _TwoForms(Protocol):
    """An optimizer that keeps other weights for training than for use."""

    param_groups: list[dict[str, Any]]
    state: MutableMapping[torch.Tensor, Any]

    def train(self) -> object: ...

    def eval(self) -> object: ...


def _has_two_forms(optimizer: object) -> TypeGuard[_TwoForms]:
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


class _EvalForm:
    """One optimizer's, for those of the model's parameters that it has."""

    def __init__(self, optimizer: _TwoForms, parameters: Sequence[tuple[str, torch.nn.Parameter]]) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._keys: tuple[str, ...] | None = None

    @contextmanager
    def in_training_form(self) -> Generator[None]:
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

    @torch.no_grad()
    def _sums(self) -> list[float]:
        sums = [parameter.sum(dtype=torch.float64) for _, parameter in self._parameters]
        return torch.stack(sums).tolist() if sums else []

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
