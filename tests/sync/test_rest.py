# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import torch
from torch import nn
from torch.nn.utils import prune

from geo_accel.sync.rest import rest_of, untrained_checksums
from geo_accel.units import find_units
from tests.workers.models import build_model


def rest(model):
    return {entry.name: entry for entry in rest_of(model, find_units(model))}


def test_statistics_and_counters_are_looked_at_and_constants_are_not():
    names = {name.split(".")[-1] for name in rest(build_model("resnet"))}
    assert names == {"running_mean", "running_var", "num_batches_tracked"}
    assert rest(build_model("llama")) == {}  # rotary tables are in no state dict


def test_counters_are_not_averaged():
    kinds = {name.split(".")[-1]: entry.averaged for name, entry in rest(build_model("resnet")).items()}
    assert kinds == {"running_mean": True, "running_var": True, "num_batches_tracked": False}


def test_of_what_adapters_leave_frozen_a_sample_is_read():
    lora = rest(build_model("lora"))
    assert lora and all(entry.sampled for entry in lora.values())
    model = nn.ModuleDict({"student": nn.Linear(8, 8), "teacher": nn.Linear(8, 8).requires_grad_(False)})
    assert [(name, entry.sampled) for name, entry in rest(model).items()] == [
        ("teacher.weight", False),
        ("teacher.bias", False),
    ]


def test_a_sample_tells_when_a_large_tensor_is_moved_and_a_whole_one_any_change():
    for trained, place in ((1, slice(None)), (200, (17, 3))):
        model = nn.ModuleDict({"student": nn.Linear(trained, 100), "teacher": nn.Linear(100, 100, bias=False)})
        model["teacher"].requires_grad_(False)
        before = rest(model)["teacher.weight"].fingerprint()
        model["teacher"].weight.data[place] += 1e-3
        assert rest(model)["teacher.weight"].fingerprint() != before


def test_masks_are_not_averaged():
    model = nn.Sequential(nn.Linear(4, 4))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    assert [(name, entry.averaged) for name, entry in rest(model).items()] == [("0.weight_mask", False)]


def test_every_tensor_once_and_none_that_is_not_whole():
    model = nn.Module()
    model.body = nn.Linear(2, 2)
    model.register_buffer("one", torch.zeros(2))
    model.register_buffer("same", model.one)
    model.register_buffer("nowhere", torch.zeros(2, device="meta"))
    model.register_buffer("few", torch.zeros(2).to_sparse())
    assert list(rest(model)) == ["one"]


def test_what_a_state_dict_makes_anew_cannot_be_set():
    model = nn.Linear(2, 2)
    model.register_state_dict_post_hook(
        lambda module, state, prefix, _: state.update({prefix + "made": torch.ones(1)})
    )
    assert rest(model)["made"].fixed


def test_weights_that_are_not_trained_have_checksums():
    model = build_model("lora")
    before = untrained_checksums(model, find_units(model))
    with torch.no_grad():
        model.base_model.model.transformer.wte.weight.add_(1e-3)
    after = untrained_checksums(model, find_units(model))
    assert [name for name in before if before[name] != after[name]] == ["base_model.model.transformer.wte.weight"]
