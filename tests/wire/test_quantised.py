# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Levels, scales and payloads of the codecs of 8, 4 and 2 bits, by hand."""

import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.wire import kernels
from geo_accel.wire.quantised import BLOCK, Quantised


def payload_of(bits, numbers):
    codec, values = Quantised(bits), torch.tensor(numbers)
    return bytes(codec.encode(values, torch.empty(codec.encoded_bytes(len(values)), dtype=torch.uint8)).tolist())


def decoded(bits, payload, numel):
    return Quantised(bits).decode(torch.tensor(list(payload), dtype=torch.uint8), torch.empty(numel)).tolist()


@pytest.mark.parametrize(
    "bits, steps, levels, first_bytes",
    [
        (8, 127, [127.0, -127.0, 0.0, 1.0], [127, 256 - 127, 0, 1]),
        (4, 7, [7.0, -7.0, 0.0, 1.0], [15 | 1 << 4, 8 | 9 << 4]),
        (2, 2, [1.5, -1.5, 0.5, -0.5], [3 | 0 << 2 | 2 << 4 | 1 << 6]),
    ],
)
def test_payloads_are_scales_and_then_codes_from_the_lowest_bits_up(bits, steps, levels, first_bytes):
    # The largest magnitude stands in the second block too, so that both have the scale 0.25.
    numbers = [0.25 * level for level in levels] + [0.0] * (BLOCK - 5) + [0.25 * steps]
    payload = payload_of(bits, [*numbers, 0.25 * steps])
    width = BLOCK * bits // 8
    assert len(payload) == 2 * (4 + width)
    assert struct.unpack("<2f", payload[:8]) == (0.25, 0.25)
    assert list(payload[8 : 8 + len(first_bytes)]) == first_bytes
    assert decoded(bits, payload, 2 * BLOCK)[:4] == numbers[:4]


@pytest.mark.parametrize("bits, levels", [(8, range(-127, 128)), (4, range(-7, 8)), (2, [-1.5, -0.5, 0.5, 1.5])])
def test_every_level_is_decoded_exactly_and_used(bits, levels):
    most = max(max(levels), 2.0)
    scale = 2.0**-9
    numbers = []
    for level in levels:
        numbers += [scale * level, -scale * most] + [0.0] * (BLOCK - 2)
    found = decoded(bits, payload_of(bits, numbers), len(numbers))[::BLOCK]
    assert found == [scale * level for level in levels]


def test_two_bits_have_no_zero_and_half_the_error_of_three_levels():
    values = torch.linspace(-1, 1, BLOCK)
    found = torch.tensor(decoded(2, payload_of(2, values.tolist()), BLOCK))
    assert sorted(set(found.tolist())) == [-0.75, -0.25, 0.25, 0.75]
    three = values.round()
    assert (found - values).abs().max() <= 0.25 and (three - values).abs().max() > 0.49


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_large_block_does_not_coarsen_its_neighbours(bits):
    small = torch.rand(BLOCK, generator=torch.Generator().manual_seed(0)).sub_(0.5).mul_(1e-10)
    numbers = [3e38] * BLOCK + small.tolist() + [-3e38] * BLOCK
    found = torch.tensor(decoded(bits, payload_of(bits, numbers), len(numbers))[BLOCK : 2 * BLOCK])
    assert (found - small).abs().max() <= small.abs().max() * {8: 0.004, 4: 0.072, 2: 0.2501}[bits]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_blocks_of_tiny_values_are_zeros(bits):
    payload = payload_of(bits, [1e-37, -1e-45, 0.0] * 50)
    assert struct.unpack("<2f", payload[:8]) == (0.0, 0.0)
    # Codes are those of 0 (or the level above it), not whatever 0 / 0 converts to.
    assert set(payload[8:]) == {{8: 0, 4: 0x88, 2: 0b10101010}[bits]}
    assert decoded(bits, payload, 150) == [0.0] * 150


@pytest.mark.parametrize("bits", [8, 4, 2])
@given(
    st.lists(
        st.one_of(
            st.floats(width=32, allow_nan=False, allow_infinity=False),
            st.sampled_from([0.0, -0.0, 1e-37, -1e-44, 3.4028235e38, -3.4028235e38, 127.5, 0.5]),
        ),
        min_size=BLOCK,
        max_size=BLOCK,
    )
)
def test_an_accelerators_operations_give_the_same_bits_as_the_cpus_loops(bits, numbers):
    codec, values = Quantised(bits), torch.tensor([numbers, [2.0**-20 * number for number in numbers]])
    payload = codec.encode(values.view(-1), torch.empty(codec.encoded_bytes(values.numel()), dtype=torch.uint8))
    scales, codes = codec._parts(payload)
    with_torch = torch.empty_like(scales), torch.empty_like(codes)
    codec._encode_with_torch(values, *with_torch)
    assert torch.equal(scales.view(torch.int32), with_torch[0].view(torch.int32))
    assert torch.equal(codes, with_torch[1])
    here, there = torch.empty_like(values), torch.empty_like(values)
    codec.decode(payload, here.view(-1))
    codec._decode_with_torch(scales, codes, there)
    assert torch.equal(here.view(torch.int32), there.view(torch.int32))


@given(
    st.sampled_from([8, 4, 2]),
    st.integers(1, 5),
    st.integers(1, 1000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_settling_what_was_heard_in_one_pass_gives_the_same_bits(bits, sites, numel, first, last, seed):
    """As decoding, averaging in the order of sites, and settling one after the other."""
    codec, generator = Quantised(bits), torch.Generator().manual_seed(seed)
    size, begin = codec.encoded_bytes(numel), 4 * (seed % 3)
    at, end = sorted((int(first * numel), int(last * numel)))
    heard = torch.empty(sites, begin + size, dtype=torch.uint8)
    for payload in heard:
        codec.encode(torch.randn(numel, generator=generator), payload[begin:])
    decoded = [codec.decode(payload[begin:].clone(), torch.empty(numel)) for payload in heard]
    mine = seed % sites
    mean = decoded[0].clone()
    for other in decoded[1:]:
        mean += other
    mean /= sites
    anchor, weights = (torch.randn(end - at, generator=generator) for _ in range(2))
    expected = anchor + mean[at:end], weights + (mean - decoded[mine])[at:end]
    kernels.settle_coded(
        heard.view(-1)[begin:].numpy(),
        sites,
        begin + size,
        heard[mine, begin:].numpy(),
        bits,
        at,
        anchor.numpy(),
        weights.numpy(),
    )
    assert torch.equal(anchor, expected[0]) and torch.equal(weights, expected[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_encoded(bad):
    values = torch.zeros(300)
    values[290] = bad
    codec = Quantised(4)
    with pytest.raises(ValueError, match="int4 encodes finite values only: element 290 is"):
        codec.encode(values, torch.empty(codec.encoded_bytes(300), dtype=torch.uint8))


def test_encoding_does_not_depend_on_assertions():
    script = (
        "import torch; from geo_accel.wire.quantised import Quantised\n"
        "codec = Quantised(8)\n"
        "payload = torch.zeros(codec.encoded_bytes(128), dtype=torch.uint8)\n"
        "print(int(codec.encode(torch.ones(128), payload).count_nonzero()))"
    )
    done = subprocess.run([sys.executable, "-O", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "132", done.stderr  # a scale's four bytes and 128 codes
