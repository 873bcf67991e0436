# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Optimizers with a form of the weights for use, without any other site."""

import copy

import pytest
import schedulefree
import torch
from torch import nn

from geo_accel.sync.eval_form import EvalForms
from geo_accel.units import find_units


def wrapped(parameters, **settings):
    return schedulefree.ScheduleFreeWrapper(torch.optim.SGD(parameters, **settings))


KINDS = [schedulefree.AdamWScheduleFree, schedulefree.SGDScheduleFree, schedulefree.RAdamScheduleFree]
KINDS += [schedulefree.AdamWScheduleFreeReference, wrapped]


def trained(kind, steps=8):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    optimizer = kind(model.parameters(), lr=0.1)
    optimizer.train()
    for _ in range(steps):
        model(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_the_form_for_use_reads_is_all_that_it_needs(kind):
    """A model that is given another's weights and that state has the same form for use, to the last bit."""
    model, optimizer = trained(kind)
    other, theirs = trained(kind, steps=6)
    with torch.no_grad():
        for mine, hers in zip(model.parameters(), other.parameters(), strict=True):
            hers.copy_(mine)
        for mine, hers in zip(entries(optimizer, model), entries(theirs, other), strict=True):
            assert mine.name == hers.name and len(mine.tensors) == len(hers.tensors) == 1
            hers.tensors[0].copy_(mine.tensors[0])
    optimizer.eval()
    theirs.eval()
    assert torch.equal(weights(model), weights(other))


def entries(optimizer, model):
    return EvalForms([optimizer], find_units(model)).entries()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_finding_out_changes_nothing(kind):
    model, optimizer = trained(kind)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    groups = [id(group) for group in optimizer.param_groups]
    EvalForms([optimizer], find_units(model)).entries()
    after = optimizer.state_dict()
    assert torch.equal(weights(model), before) and [id(group) for group in optimizer.param_groups] == groups
    assert after["param_groups"] == state["param_groups"]
    for key, held in state["state"].items():
        for name, value in held.items():
            assert torch.equal(torch.as_tensor(after["state"][key][name]), torch.as_tensor(value))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_weights_come_back_in_the_form_that_they_had(kind):
    model, optimizer = trained(kind)
    form, trains = EvalForms([optimizer], find_units(model)), weights(model)
    with form.in_training_form():
        assert torch.equal(weights(model), trains)
    assert torch.equal(weights(model), trains)
    optimizer.eval()
    used = weights(model)
    assert not torch.equal(used, trains)
    with form.in_training_form():
        assert torch.allclose(weights(model), trains, atol=1e-6)
    assert torch.allclose(weights(model), used, atol=1e-6)
    optimizer.train()
    assert torch.allclose(weights(model), trains, atol=1e-6)


def test_other_optimizers_have_one_form():
    model, optimizer = trained_by_adamw()
    form = EvalForms([optimizer], find_units(model))
    with form.in_training_form():
        assert form.entries() == []
    with EvalForms([None], find_units(model)).in_training_form():
        pass


def trained_by_adamw():
    model = nn.Linear(3, 3)
    return model, torch.optim.AdamW(model.parameters())


def test_before_the_first_step_nothing_is_held():
    model, optimizer = trained(schedulefree.AdamWScheduleFree, steps=0)
    form = EvalForms([optimizer], find_units(model))
    assert [entry.tensors for entry in form.entries()] == [()] * 4
    assert all(entry.fingerprint() == -1 for entry in form.entries())


def test_masters_of_somebody_elses_are_refused():
    model = nn.Linear(3, 3)
    optimizer = schedulefree.AdamWScheduleFree([torch.nn.Parameter(torch.zeros(12))])
    with pytest.raises(ValueError, match="AdamWScheduleFree keeps other weights for training than for use"):
        EvalForms([optimizer], find_units(model))


class Hiding(torch.optim.SGD):
    """Keeps its averages where nobody sees them."""

    def train(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.data.sub_(1)

    def eval(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.data.add_(1)


def test_a_form_for_use_that_follows_from_no_state_is_refused():
    model = nn.Linear(3, 3)
    optimizer = Hiding(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"Hiding.eval\(\) changes the weights by something that is not in its state"):
        EvalForms([optimizer], find_units(model)).entries()


def test_each_of_two_optimizers_has_its_own_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    free = schedulefree.SGDScheduleFree(model[0].parameters(), lr=0.1)
    plain = torch.optim.SGD(model[1].parameters(), lr=0.1)
    forms = EvalForms([plain, free, free], find_units(model))
    free.train()
    for _ in range(3):
        model(torch.randn(5, 6)).square().sum().backward()
        free.step()
        plain.step()
    with forms.in_training_form():
        names = [entry.name.split()[-1] for entry in forms.entries()]
    assert sorted(names) == ["0.bias", "0.weight"]
