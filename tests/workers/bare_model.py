# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A bare model whose weights an engine scenario moves itself, and what it compares them with.

It lives on ENGINE_WORKER_DEVICE, the CPU unless it is set; all ranks share it.
"""

import os

import torch
import torch.distributed as dist
from torch import nn

from geo_accel.integrations.session import Session, connect
from geo_accel.sync.engine import Engine

_DEVICE = torch.device(os.environ.get("ENGINE_WORKER_DEVICE", "cpu"))


def build() -> nn.Module:
    """Three units of 7, 40 and 90 parameters (odd sizes, one larger than a share) and BatchNorm buffers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 9), nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), nn.Linear(6, 1)).to(
        _DEVICE
    )


def config(codec: str = "fp32", compression: dict | None = None, **sync: object) -> dict:
    return {
        "sync": {"mode": "stream", "delay": 1, "outer": "mean", **sync},
        "compression": {"codec": codec, **(compression or {})},
    }


def vector(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


def nudge(model: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Moves all parameters by noise that depends on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.device), alpha=scale)


def start(settings: dict, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> tuple[Session, Engine]:
    """A session of these settings and the model's engine; without `optimizer` one that a scenario need not use."""
    session = connect(settings)
    assert session is not None
    return session, session.engine(model, optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=0.1))


def site_mean(session: Session, values: torch.Tensor) -> torch.Tensor:
    """Mean over sites of their first ranks' values, by a plain collective: the reference."""
    first = session.topology.local_index == 0
    total = values.clone() if first else torch.zeros_like(values)
    dist.all_reduce(total)
    return total / len(session.topology.sites)
