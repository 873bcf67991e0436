# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a site keeps for itself: everything that was prepared, and who writes it down."""

import io
from types import SimpleNamespace

import pytest
import torch

from geo_accel.integrations.session import Session
from geo_accel.integrations.site_state import SiteState, refuse_what_was_loaded_early
from geo_accel.topology import Site, Topology


class Registered:
    def __init__(self, state: object) -> None:
        self.state = state

    def state_dict(self) -> dict:
        return {"state": self.state}

    def load_state_dict(self, states: dict) -> None:
        self.state = states["state"]


class Loader(Registered):
    use_stateful_dataloader = True


def trained(kind=torch.optim.AdamW, steps=2, **settings) -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = kind([parameter], lr=0.1, **settings)
    for _ in range(steps):
        parameter.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def read_back(state: dict) -> dict:
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    return torch.load(held, weights_only=True)


def prepared(number: float) -> SimpleNamespace:
    """An accelerator that prepared one of everything, whose states hold `number`."""
    optimizer = trained()
    optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"].fill_(number)
    return SimpleNamespace(
        _optimizers=[SimpleNamespace(optimizer=optimizer, **methods(optimizer))],
        _schedulers=[Registered(number), Registered(-number)],
        _dataloaders=[SimpleNamespace(), Loader(number)],
        _custom_objects=[Registered(torch.tensor(number)), Registered(SimpleNamespace(number=number))],
        scaler=Registered(number),
    )


def methods(optimizer: torch.optim.Optimizer) -> dict:
    return {"state_dict": optimizer.state_dict, "load_state_dict": optimizer.load_state_dict}


def test_everything_that_was_prepared_comes_back_and_unsafe_objects_are_left_alone(caplog):
    saved, other = prepared(1.0), prepared(2.0)
    given = trained(torch.optim.SGD, momentum=0.9)
    state = read_back(SiteState(saved, [given, saved._optimizers[0]]).state_dict())
    assert set(state) == {
        *("optimizer", "optimizer_1", "scheduler", "scheduler_1", "custom_checkpoint", "dl_state_dict", "scaler")
    }
    assert "the state of Registered holds Python objects" in caplog.text
    SiteState(other, [trained(torch.optim.SGD, momentum=0.9)]).load_state_dict(state)
    (moments,) = other._optimizers[0].optimizer.state.values()
    assert (moments["exp_avg"] == 1).all()
    assert [part.state for part in other._schedulers] == [1.0, -1.0]
    assert (other._dataloaders[1].state, other.scaler.state, other._custom_objects[0].state) == (1.0, 1.0, 1.0)
    assert other._custom_objects[1].state.number == 2.0


def test_what_the_checkpoint_lacks_is_named():
    state = SiteState(prepared(1.0), []).state_dict()
    del state["scheduler_1"]
    with pytest.raises(ValueError, match="no state of this site's scheduler_1 but optimizer, scheduler, "):
        SiteState(prepared(2.0), []).load_state_dict(state)


def test_what_does_not_fit_is_named():
    state = SiteState(prepared(1.0), []).state_dict()
    state["optimizer"]["param_groups"][0]["params"] = [0, 1]
    with pytest.raises(ValueError, match="the site's optimizer does not fit this run's"):
        SiteState(prepared(2.0), []).load_state_dict(state)


def reloaded(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    optimizer.load_state_dict(read_back(optimizer.state_dict()))
    return optimizer


def refuse(optimizer: torch.optim.Optimizer, other_site: int | None) -> None:
    """`other_site` is what it answers; None where it holds the same."""
    topology = Topology(sites=(Site("a", (0,)), Site("b", (1,))), rank=0)
    control = SimpleNamespace(gather=lambda what, mine: [mine, mine if other_site is None else other_site])
    refuse_what_was_loaded_early(control, topology, [optimizer])


KINDS = [(torch.optim.AdamW, {}), (torch.optim.AdamW, {"fused": True}), (torch.optim.SGD, {"momentum": 0.9})]
KINDS += [(torch.optim.Muon, {}), (torch.optim.Adafactor, {})]


@pytest.mark.parametrize("kind, settings", KINDS)
def test_a_state_that_all_sites_loaded_alike_is_refused(kind, settings):
    with pytest.raises(ValueError, match="construct GeoSync first, then call"):
        refuse(reloaded(trained(kind, **settings)), None)


@pytest.mark.parametrize("kind, settings", KINDS)
def test_what_was_trained_here_or_never_is_not(kind, settings):
    refuse(trained(kind, steps=0, **settings), None)
    refuse(trained(kind, steps=3, **settings), None)  # a start with data parallelism: all alike, and right
    optimizer = reloaded(trained(kind, **settings))
    refuse(optimizer, 1)  # each site's own


@pytest.mark.parametrize(
    "sites, machines, writers",
    [
        ([(0,), (1,)], "00", [0, 1]),  # two sites on one machine
        ([(0, 1), (2, 3)], "0011", [0, 2]),
        ([(0, 1, 2, 3), (4,)], "00112", [0, 2, 4]),  # a site of two machines, which may have disks of their own
        ([(0, 2), (1, 3)], "0011", [0, 1, 2, 3]),  # both sites on both machines
    ],
)
def test_the_first_of_a_sites_ranks_on_each_machine_writes(monkeypatch, sites, machines, writers):
    monkeypatch.setenv("LOCAL_RANK", "1")  # says nothing about sites
    names = [Site(f"site{i}", ranks) for i, ranks in enumerate(sites)]
    found = [
        rank
        for rank in range(len(machines))
        if Session(
            **dict.fromkeys(("config", "control", "transport", "inside", "site_group")),
            topology=Topology(sites=tuple(names), rank=rank),
            machines=tuple(machines),
        ).writes_site
    ]
    assert found == writers
