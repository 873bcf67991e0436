# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a flush makes the same besides weights that rounds carry; run by `engine_worker`."""

from collections.abc import Callable

import torch
from torch import nn

from geo_accel.integrations.session import Session
from geo_accel.masters import Selection
from geo_accel.sync.engine import Engine
from tests.workers.bare_model import build, config, nudge, site_mean, start, vector


def schedule_free() -> dict:
    """An optimizer that trains other weights than are used, flushed before and after the change to their use."""
    from schedulefree import AdamWScheduleFree

    model = build()
    optimizer = AdamWScheduleFree(model.parameters(), lr=0.05)
    session, engine = start(config(period=2), model, optimizer)
    noise = torch.Generator().manual_seed(session.topology.site_index)
    errors, used, trained, modes = [], [], [], []
    for eval_comes_first in (False, True, False):
        optimizer.train()
        for _ in range(5):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=noise).to(parameter.device)
            optimizer.step()
            engine.step()
        engine.settle()
        optimizer.eval()
        wanted = site_mean(session, vector(model))
        if not eval_comes_first:
            optimizer.train()
        engine.flush()
        modes.append(optimizer.param_groups[0]["train_mode"])
        optimizer.eval()
        used.append(vector(model).tolist())
        errors.append((vector(model) - wanted).abs().max().item())
        optimizer.train()
        trained.append(vector(model).tolist())
    engine.close()
    return {"bits": [used, trained], "errors": errors, "train_mode": modes}


class ByHand(nn.Module):
    """State of every kind that no optimizer changes, and one layer that a site's optimizer has not been told of."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(6, 4)
        self.forgotten = nn.Linear(3, 3)
        self.teacher = nn.Linear(60, 40).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.pruned_orig = nn.Parameter(torch.ones(8))
        self.register_buffer("pruned_mask", torch.ones(8))
        self.register_buffer("fine", torch.zeros(5, dtype=torch.float64))
        self.register_buffer("coarse", torch.zeros(5, dtype=torch.float16))
        self.register_buffer("wave", torch.zeros(3, dtype=torch.complex64))
        self.register_buffer("across", torch.zeros(3, 2).t())
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("never", torch.full((3,), -torch.inf))


def by_hand() -> dict:
    """A script that moves copies and statistics itself, unlike on every site."""
    torch.manual_seed(0)
    model = ByHand()
    trained = [*model.student.parameters(), *model.norm.parameters(), model.pruned_orig]
    session, engine = start(config(period=2), model, torch.optim.SGD(trained, lr=0.1))
    site, sites = session.topology.site_index, len(session.topology.sites)
    third = torch.tensor(1 / 3, dtype=torch.float64)
    for step in range(3):
        nudge(model.student, seed=100 * step + site, scale=0.1)
        engine.step()
    engine.flush()
    engine.step()
    engine.settle()
    before = engine.figures.wan_bytes
    engine.flush()
    quiet = engine.figures.wan_bytes - before
    with torch.no_grad():
        nudge(model.teacher, seed=7 + site, scale=0.1)
        nudge(model.forgotten, seed=9 + site, scale=0.1)
        model.fine.copy_(third + site)
        model.coarse.fill_(site)
        model.wave.fill_(complex(site, -site))
        model.across.copy_(torch.arange(6).view(2, 3) + site)
        model.flags[site % 3] = True
        model.norm.num_batches_tracked.fill_(10 - site)
        model.norm.running_mean.fill_(site)
        model.pruned_mask[site] = 0
    teacher = site_mean(session, vector(model.teacher))
    engine.step()
    engine.flush()
    mean = (sites - 1) / 2
    record = {
        "bits": [[name, value.flatten().view(torch.uint8).tolist()] for name, value in state_of(model)],
        "errors": {
            "teacher": (vector(model.teacher) - teacher).abs().max().item(),
            "fine": (model.fine - third - mean).abs().max().item(),
            "coarse": (model.coarse - mean).abs().max().item(),
            "wave": (model.wave - complex(mean, -mean)).abs().max().item(),
            "across": (model.across - torch.arange(6).view(2, 3) - mean).abs().max().item(),
            "running_mean": (model.norm.running_mean - mean).abs().max().item(),
        },
        "counter": model.norm.num_batches_tracked.item(),
        "mask": model.pruned_mask.tolist(),
        "flags": model.flags.tolist(),
        "units": [[unit.name, [name for name, _ in unit.parameters]] for unit in engine.units],
        "quiet": quiet,
    }
    engine.close()
    return record


def state_of(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, value.detach().cpu().contiguous()) for name, value in model.state_dict().items()]


def refused(how: str) -> dict:
    """One site that is not like the others after a flush, for a reason that nobody thought of: what ranks are told."""
    model = build()
    session, engine = start(config(period=2), model)
    odd = session.topology.site_index == 1
    nudge(model, seed=session.topology.site_index)
    engine.step()
    if odd and how == "another buffer":
        model[0].register_buffer("mine", torch.zeros(2))
    elif odd:
        _moved_after_the_average(session, engine, model)
    said = ""
    try:
        engine.flush()
    except ValueError as error:
        said = str(error)
    engine.close()
    return {"said": said}


def _moved_after_the_average(session: Session, engine: Engine, model: nn.Module) -> None:
    take_anchor = engine._rounds.take_anchor

    def moved(selection: Selection) -> list[torch.Tensor]:
        with torch.no_grad():
            model[1][0].weight[2, 1] += 1
        return take_anchor(selection)

    engine._rounds.take_anchor = moved


def with_other_defaults(scenario: Callable[[], dict]) -> dict:
    """As in a script that makes tensors in bf16 and on another device unless it says otherwise.

    The model and what the scenario does are as they were: only the product runs under these defaults.
    """
    step, finish = Engine.step, Engine.flush

    def under_defaults(method: Callable) -> Callable:
        def wrapped(engine: Engine) -> None:
            torch.set_default_dtype(torch.bfloat16)
            try:
                with torch.device("meta"):
                    method(engine)
            finally:
                torch.set_default_dtype(torch.float32)

        return wrapped

    Engine.step, Engine.flush = under_defaults(step), under_defaults(finish)
    try:
        return scenario()
    finally:
        Engine.step, Engine.flush = step, finish
