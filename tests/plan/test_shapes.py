# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from geo_accel.plan.shapes import PRESETS, Workload, profile_of, read_shape, shape_of
from geo_accel.units import find_units

COUNTS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
}


def work(**given_):
    return Workload(**({"flops": 1e12, "batch": 2, "sequence": 64} | given_))


def compute_s(shape, **given_):
    return profile_of(shape, work(**given_)).compute_s


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_counts_are_exact(name):
    assert read_shape(name).numel == COUNTS[name]


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_layer=3, n_embd=32, n_head=2, vocab_size=101, n_positions=24),
        GPT2Config(
            n_layer=1, n_embd=16, n_head=2, vocab_size=53, n_positions=8, n_inner=40, tie_word_embeddings=False
        ),
        LlamaConfig(
            num_hidden_layers=3,
            hidden_size=32,
            intermediate_size=48,
            vocab_size=97,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        LlamaConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=48,
            vocab_size=97,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=12,
            attention_bias=True,
            mlp_bias=True,
        ),
    ],
    ids=["gpt2", "gpt2-untied", "llama-tied", "llama-biases"],
)
def test_units_are_those_of_the_model(config, tmp_path):
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    units = [(unit.name, unit.numel) for unit in find_units(model)]
    assert [(unit.name, unit.numel) for unit in read_shape(tmp_path).units] == units
    assert read_shape(tmp_path / "config.json").units == read_shape(tmp_path).units


def test_times_are_the_well_known_six_flops_per_parameter_and_token():
    shape = read_shape("llama-2-7b")
    tokens, embedding = 2 * 64, 32000 * 4096
    attention = 12 * 32 * 4096 * 64 * tokens  # 12 * layers * width * sequence per token, forward and backward
    norms = 65 * 4096
    expected = (6 * (shape.numel - embedding - norms) * tokens + attention) / 1e12
    assert math.isclose(compute_s(shape, memory_bytes_per_s=1e18), expected, rel_tol=1e-6)


def test_backward_takes_twice_the_forward_and_a_tied_head_is_computed_first():
    profile = profile_of(read_shape("gpt2"), work())
    assert all(unit.backward_s == 2 * unit.forward_s for unit in profile.units)
    head = profile.units[0]
    assert head.name == "transformer.ln_f" and math.isclose(head.forward_s, 2 * 50257 * 768 * 128 / 1e12)
    assert profile.units[-1].forward_s == 0


def test_micro_batches_repeat_the_passes_and_not_the_update():
    shape = read_shape("gpt2")
    one, three = (compute_s(shape, micro_batches=passes) for passes in (1, 3))
    passes_s = compute_s(shape, memory_bytes_per_s=1e18)
    assert math.isclose(three - one, 2 * passes_s, rel_tol=1e-6)


def test_the_reduction_inside_a_site_is_free_unless_its_network_is_given():
    shape = read_shape("gpt2")
    one = compute_s(shape, gpus_per_site=1, site_bits_per_s=8e9)
    assert compute_s(shape, gpus_per_site=4) == compute_s(shape) == one
    # An all-reduce over 4 GPUs carries 2 * 3 / 4 of the gradients: 2 bytes each, at 10^9 bytes per second.
    slow = compute_s(shape, gpus_per_site=4, site_bits_per_s=8e9)
    assert math.isclose(slow - one, 1.5 * 2 * shape.numel / 1e9, rel_tol=1e-6)
    # It delays each unit's readiness by its own share.
    fast, held = (profile_of(shape, work(gpus_per_site=4, site_bits_per_s=rate)) for rate in (None, 8e9))
    for before, after in zip(fast.units, held.units, strict=True):
        assert math.isclose(after.backward_s - before.backward_s, 3 * after.numel / 1e9, rel_tol=1e-6)


@settings(deadline=None)
@given(
    layers=st.integers(1, 20),
    heads=st.integers(1, 8),
    groups=st.integers(1, 4),
    tied=st.booleans(),
    batch=st.integers(1, 64),
)
def test_any_llama_has_a_unit_per_layer_and_consistent_times(layers, heads, groups, tied, batch):
    config = {
        "num_hidden_layers": layers,
        "hidden_size": heads * groups * 8,
        "intermediate_size": 40,
        "vocab_size": 77,
        "num_attention_heads": heads * groups,
        "num_key_value_heads": heads,
        "tie_word_embeddings": tied,
    }
    shape = shape_of(config)
    assert len(shape.units) == layers + 2 + (not tied)
    untied = shape_of({**config, "tie_word_embeddings": False})
    assert untied.numel - shape.numel == tied * 77 * heads * groups * 8
    # Tied or not, the same products are computed.
    free = {"batch": batch, "memory_bytes_per_s": 1e18}
    assert math.isclose(compute_s(shape, **free), compute_s(untied, **free), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 0}, "cfg: n_layer is 0; it must be a whole number from 1 to 1000."),
        ({"n_layer": 10**9}, "cfg: n_layer is 1000000000; it must be a whole number from 1 to 1000."),
        ({"n_embd": float("nan")}, "cfg: n_embd is nan; it must be a whole number from 1 to 1e+07."),
        ({"n_embd": True}, "cfg: n_embd is True; it must be a whole number from 1 to 1e+07."),
        ({"vocab_size": "many"}, "cfg: vocab_size is 'many'; it must be a whole number from 1 to 1e+07."),
        ({"n_positions": None}, "cfg: n_positions is None; it must be a whole number from 1 to 1e+07."),
        ({"tie_word_embeddings": "yes"}, "cfg: tie_word_embeddings is 'yes'; it must be true or false."),
        ({"model_type": "bert"}, "cfg: model_type is 'bert'; known are gpt2 and llama. Measure a profile instead."),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ValueError) as caught:
        shape_of({**PRESETS["gpt2"], **change}, "cfg")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; it must divide num_attention_heads, 32."),
        ({"num_attention_heads": 33, "num_key_value_heads": 33}, "num_attention_heads is 33; it must divide"),
    ],
)
def test_heads_that_do_not_divide_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        shape_of({**PRESETS["llama-2-7b"], **change})


def test_a_missing_setting_is_named():
    with pytest.raises(ValueError, match="cfg: it lacks vocab_size"):
        shape_of({"n_layer": 1, "n_embd": 8}, "cfg")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON, or cut off"), ("[1]", "found a list"), (json.dumps({}), "it lacks")]
)
def test_a_file_that_is_no_config_is_named(text, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_shape(path)
    assert str(path) in str(caught.value)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean llama-2-7b\?"):
        read_shape("llama2-7b")


@pytest.mark.parametrize(
    "wrong",
    [{"flops": math.nan}, {"flops": -1.0}, {"batch": 0}, {"sequence": 1.5}, {"micro_batches": -1}, {"dtype": "int3"}],
)
def test_wrong_workloads_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        work(**wrong)


def test_sequences_beyond_the_learned_positions_are_refused():
    with pytest.raises(ValueError, match="sequence is 2048; gpt2 takes at most 1024 tokens"):
        profile_of(read_shape("gpt2"), work(sequence=2048))
