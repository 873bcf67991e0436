# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from torch import nn

from geo_accel.units import checksums, find_units
from tests.workers.models import build_data, build_model


def trainable(model):
    return {id(p) for p in model.parameters() if p.requires_grad}


def held(units):
    return [id(p) for unit in units for _, p in unit.parameters]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "lora", "resnet"])
def test_units_hold_every_trainable_parameter_once(kind):
    model = build_model(kind)
    ids = held(find_units(model))
    assert len(ids) == len(set(ids)) and set(ids) == trainable(model)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "resnet", "lora"])
def test_order_is_that_of_the_real_backward(kind):
    model = build_model(kind)
    units = find_units(model)
    batch = torch.utils.data.default_collate(build_data(kind, 2))
    ready = []
    for unit in units:
        for _, parameter in unit.parameters:
            parameter.register_post_accumulate_grad_hook(lambda _, name=unit.name: ready.append(name))
    model(**batch)["loss"].backward()
    # A unit is ready with its last gradient.
    order = list(dict.fromkeys(reversed(ready)))[::-1]
    # GPT-2's two embeddings meet in one sum: which of them is last is autograd's business.
    embeddings = {"transformer.wte", "transformer.wpe"}
    assert [n for n in order if n not in embeddings] == [u.name for u in units if u.name not in embeddings]
    assert set(order) == {unit.name for unit in units}
    assert kind != "gpt2" or set(order[-2:]) == embeddings


def test_blocks_are_units_and_the_tied_head_belongs_to_the_embedding():
    names = [unit.name for unit in find_units(build_model("gpt2"))]
    assert names == [
        "transformer.ln_f",
        "transformer.h.2",
        "transformer.h.1",
        "transformer.h.0",
        "transformer.wpe",
        "transformer.wte",
    ]


def test_untied_head_is_a_unit_of_its_own():
    assert find_units(build_model("llama"))[0].name == "lm_head"


def test_only_adapters_are_units_under_lora():
    units = find_units(build_model("lora"))
    assert len(units) == 3 and all("lora_" in name for unit in units for name, _ in unit.parameters)


def test_residual_blocks_are_units():
    names = [unit.name for unit in find_units(build_model("resnet"))]
    assert names == ["head", "layer2.1", "layer2.0", "layer1.1", "layer1.0", "stem"]


def test_parameters_outside_of_submodules_are_found():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.body = nn.Linear(3, 3)

    assert [(u.name, u.numel) for u in find_units(Scaled())] == [("body", 12), ("Scaled", 3)]


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="no trainable parameters"):
        find_units(build_model("frozen"))


def test_checksums_name_the_unit_that_changed():
    model = build_model("gpt2")
    units = find_units(model)
    before = checksums(units)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] += 1e-3
    after = checksums(units)
    assert [name for name in before if before[name] != after[name]] == ["transformer.h.1"]
