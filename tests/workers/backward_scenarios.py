# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Mode "backward" beside a second copy of the model, averaged by plain collectives; run by `engine_worker`."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from geo_accel.integrations.session import connect
from geo_accel.units import find_units
from tests.workers.bare_model import site_mean, vector


class TiedBlocks(nn.Module):
    """A weight used first and last, recomputed activations, and a layer that gets no gradient."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Linear(8, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.unused = nn.Linear(3, 3)
        self._reentrant = reentrant

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(values)
        for block in self.blocks:
            hidden = torch.tanh(recompute(block, hidden, use_reentrant=self._reentrant))
        return (hidden @ self.embedding.weight).square().mean()


def averaged_in_backward(settings: dict, steps: int, reentrant: bool = False) -> dict:
    """Two copies of a model, trained alike: one by mode "backward", one averaged by a plain collective where that
    mode should. Accumulation, recomputation, a tied weight, a layer without gradient; clipping where it is allowed."""
    reference, model = TiedBlocks(reentrant), TiedBlocks(reentrant)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5, momentum=0.9) for m in (reference, model)]
    session = connect(settings)
    last = [False]
    engine = session.engine(model, optimizer=optimizers[1], is_last_micro_batch=lambda: last[0])
    after_update = engine.config.sync.optimizer_in_backward
    units = find_units(reference)
    distances, changed, norm_error = [], 0, 0.0
    for step in range(1, steps + 1):
        for micro_batch in range(2):
            last[0] = micro_batch == 1
            noise = torch.Generator().manual_seed(100 * step + 10 * micro_batch + session.topology.site_index)
            for copy in (reference, model):
                noise.manual_seed(noise.initial_seed())
                copy(torch.randn(4, 8, generator=noise)).backward()
        if not after_update:
            norms = [nn.utils.clip_grad_norm_(copy.parameters(), 0.05).item() for copy in (reference, model)]
            norm_error = max(norm_error, abs(norms[0] - norms[1]))
        plan = engine.plan
        members = (
            {}
            if plan is None
            else {piece.unit for members in plan.rounds[(step - engine.adopted) % plan.period] for piece in members}
        )

        def average(members=members) -> None:
            with torch.no_grad():
                for unit in members:
                    for _, parameter in units[unit].parameters:
                        parameter.copy_(site_mean(session, parameter))

        before = vector(reference)
        if after_update:
            optimizers[0].step()
            average()
        else:
            average()
            changed += not torch.equal(before, vector(reference))
            optimizers[0].step()
        optimizers[1].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        distances.append((vector(model) - vector(reference)).abs().max().item())
        engine.step()
    record = {
        "distances": distances,
        "changed": changed,
        "norm_error": norm_error,
    }
    engine.flush()
    record["bits"] = vector(model).tolist()
    engine.close()
    return record
