# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.config import CODECS
from geo_accel.plan.choose import BYTES_PER_VALUE
from geo_accel.wire.codec import get_codec

values = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=70)


def round_trip(codec, tensor):
    payload = codec.encode(tensor, torch.empty(codec.encoded_bytes(tensor.numel()), dtype=torch.uint8))
    assert payload.dtype == torch.uint8 and payload.numel() == codec.encoded_bytes(tensor.numel())
    return codec.decode(payload.clone(), torch.empty_like(tensor))


@given(values)
def test_fp32_is_lossless(numbers):
    tensor = torch.tensor(numbers, dtype=torch.float32)
    assert torch.equal(round_trip(get_codec("fp32"), tensor), tensor)


@given(values)
def test_bf16_is_within_its_bound(numbers):
    tensor = torch.tensor(numbers, dtype=torch.float32).clamp(-1e38, 1e38)
    error = (round_trip(get_codec("bf16"), tensor) - tensor).abs()
    assert bool((error <= tensor.abs() * 2**-8 + 1e-38).all())


@pytest.mark.parametrize("name", CODECS)
def test_decoding_is_deterministic_and_agrees_with_the_config(name):
    codec = get_codec(name)
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert codec.name == name and codec.encoded_bytes(1000) == 1000 * BYTES_PER_VALUE[name]
    assert torch.equal(round_trip(codec, tensor), round_trip(codec, tensor))


def test_unknown_codecs_are_refused_by_name():
    with pytest.raises(ValueError, match="unknown codec 'fp8': there are fp32, bf16"):
        get_codec("fp8")
