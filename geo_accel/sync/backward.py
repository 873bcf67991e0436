# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Mode "backward": rounds start inside backward, when their units' last gradients are ready (arXiv:2502.11058).

By default weights are averaged before the optimizer's step, which then uses the local gradients, whole and clipped as
ever. With `in_backward` each unit is updated as soon as its gradient is ready and averaged after that: the paper's
Algorithm 1.
"""

from collections.abc import Callable, Sequence

import torch

from geo_accel.config import GeoConfig
from geo_accel.topology import Topology
from geo_accel.units import Unit


def require_backward_fits(optimizer: torch.optim.Optimizer | None, config: GeoConfig, topology: Topology) -> None:
    """Raises ValueError where rounds cannot start inside backward."""
    if optimizer is None:
        raise ValueError('sync.mode "backward" needs the optimizer: pass optimizer= to GeoSync.')
    if config.sync.optimizer_in_backward and any(len(site.ranks) > 1 for site in topology.sites):
        raise ValueError(
            "sync.optimizer_in_backward: sites of one process only; here gradients are reduced inside the site "
            "after backward has made them. Set it to false."
        )


class BackwardHooks:
    """Tells when the units of a model are ready, in the last micro-batch only, and when the update is due.

    Which round comes first is never decided here: gradients may become ready in any order, on every rank in another.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        optimizer: torch.optim.Optimizer,
        *,
        is_last_micro_batch: Callable[[], bool],
        on_ready: Callable[[int], None],
        before_update: Callable[[], None],
        in_backward: bool,
    ) -> None:
        """`optimizer` is torch's own, not a wrapper. `on_ready(unit)` may come more than once per step; units without
        a gradient never come. `before_update()` comes when all of backward is over."""
        self._units = units
        self._optimizer = optimizer
        self._is_last = is_last_micro_batch
        self._on_ready = on_ready
        self._in_backward = in_backward
        self._members = [{id(parameter) for _, parameter in unit.parameters} for unit in units]
        self._seen: list[set[int]] = [set() for _ in units]
        self._updated: set[int] = set()
        self._updating = False
        self._handles = [
            parameter.register_post_accumulate_grad_hook(self._hook(unit))
            for unit, one in enumerate(units)
            for _, parameter in one.parameters
        ]
        self._handles.append(optimizer.register_step_pre_hook(lambda *_: self._before_update(before_update)))

    def remove(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()

    def begin_step(self) -> None:
        """A step boundary: all units wait for their gradients again."""
        for seen in self._seen:
            seen.clear()
        self._updated.clear()

    def _hook(self, unit: int) -> Callable[[torch.Tensor], None]:
        def gradient_ready(parameter: torch.Tensor) -> None:
            if not self._is_last():
                return
            if unit in self._updated:
                raise ValueError(
                    f"sync.optimizer_in_backward: {self._units[unit].name} got another gradient after its update (is "
                    "it used in several checkpointed parts, or is backward called twice?); set it to false."
                )
            self._seen[unit].add(id(parameter))
            if len(self._seen[unit]) == len(self._members[unit]):
                if self._in_backward:
                    self._update(unit)
                self._on_ready(unit)

        return gradient_ready

    def _update(self, unit: int) -> None:
        """Steps the optimizer for one unit and drops its gradients, so that the user's own step leaves it alone."""
        members = self._members[unit]
        groups = [(group, group["params"]) for group in self._optimizer.param_groups]
        self._updating = True
        try:
            for group, parameters in groups:
                group["params"] = [p for p in parameters if id(p) in members]
            # The class's own step: schedulers count calls of the instance's.
            type(self._optimizer).step(self._optimizer)
        finally:
            self._updating = False
            for group, parameters in groups:
                group["params"] = parameters
        for _, parameter in self._units[unit].parameters:
            parameter.grad = None
        self._updated.add(unit)

    def _before_update(self, before_update: Callable[[], None]) -> None:
        if not self._updating:
            before_update()
