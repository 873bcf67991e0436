# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What holds for every codec: sizes, determinism, bounds, slices, and that nothing is lost with error feedback."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.config import CODECS, DENSE_CODECS
from geo_accel.config.names import CODEC_FACTS
from geo_accel.plan.cost import BYTES_PER_VALUE, sparse_bytes
from geo_accel.wire.codec import get_codec

# Sparse ones with places of 12 bits and as bits, and with the least and the most there is.
SPARSE = [("topk", kept) for kept in (1, 41, 700, 4096)] + [("randk", kept) for kept in (1, 41, 4096)]
ALL = [*((name, 0) for name in DENSE_CODECS), *SPARSE]
every_codec = pytest.mark.parametrize("name, kept", ALL)
codecs = st.sampled_from(ALL).map(lambda case: get_codec(*case))
dense_codecs = st.sampled_from(DENSE_CODECS).map(get_codec)


@st.composite
def tensors(draw, most=700):
    """Any finite fp32, of any length: few values repeated, any bits at all, or of one order of magnitude per block."""
    numel = draw(st.one_of(st.integers(0, most), st.sampled_from([0, 1, 127, 128, 129, 256])))
    kind = draw(st.sampled_from(["listed", "bits", "blocks"]))
    if kind == "listed":
        finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
        few = torch.tensor(draw(st.lists(finite, min_size=1, max_size=20)), dtype=torch.float32)
        return few.repeat(-(-numel // len(few)))[:numel].clone()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if kind == "bits":
        bits = torch.randint(-(2**31), 2**31, (numel,), generator=generator).to(torch.int32)
        values = bits.view(torch.float32)
        return torch.where(values.isfinite(), values, 0.0)
    exponents = torch.randint(-45, 38, (numel // 128 + 1, 1), generator=generator).double()
    values = torch.randn(len(exponents), 128, generator=generator).double() * 10**exponents
    return values.view(-1)[:numel].float().clamp(-3e38, 3e38)


def encoded(codec, values, filler=0, offset=4):
    """The payload, from a buffer with other content around it and inside, at a multiple of 4 bytes."""
    nbytes = codec.encoded_bytes(values.numel())
    buffer = torch.full((offset + nbytes + 4,), filler, dtype=torch.uint8)
    before = values.clone()
    payload = codec.encode(values, buffer[offset : offset + nbytes])
    assert payload.dtype == torch.uint8 and payload.dim() == 1 and payload.numel() == nbytes
    assert bool((buffer[:offset] == filler).all()) and bool((buffer[offset + nbytes :] == filler).all())
    assert torch.equal(values.view(torch.int32), before.view(torch.int32))
    return payload


def decoded(codec, payload, numel):
    """What the payload says, decoded into a slice of a larger tensor."""
    larger = torch.full((numel + 7,), float("nan"))
    found = codec.decode(payload, larger[3 : numel + 3])
    assert found.data_ptr() == larger[3:].data_ptr() or not numel
    assert bool(larger[:3].isnan().all()) and bool(larger[numel + 3 :].isnan().all())
    return larger[3 : numel + 3].clone()


def round_trip(codec, values):
    return decoded(codec, encoded(codec, values), values.numel())


def largest_of_block(values):
    """Each value's block's largest magnitude, in fp64."""
    blocks = torch.nn.functional.pad(values.double().abs(), (0, -values.numel() % 128)).view(-1, 128)
    return (
        blocks.amax(1, keepdim=True).expand(-1, 128).reshape(-1)[: values.numel()] if len(blocks) else blocks.view(-1)
    )


def bound(name, values):
    """How far a dense codec may be off, as documented."""
    if name == "fp32":
        return torch.zeros_like(values)
    if name == "bf16":
        return (values.double().abs() * 2.0**-8).clamp(min=2.0**-126)
    half, steps = {"int8": (1 / 254, 127), "int4": (1 / 14, 7), "int2": (1 / 4, 2)}[name]
    return (largest_of_block(values) * (half + 2.0**-22)).clamp(min=steps * 1e-36)


# ---- values


@given(dense_codecs, tensors())
def test_dense_codecs_are_within_their_bounds(codec, values):
    found = round_trip(codec, values)
    assert bool(found.isfinite().all())
    assert bool(((found.double() - values.double()).abs() <= bound(codec.name, values)).all())


@given(tensors())
def test_fp32_keeps_every_bit(values):
    codec = get_codec("fp32")
    assert codec.lossless
    assert torch.equal(round_trip(codec, values).view(torch.int32), values.view(torch.int32))


@pytest.mark.parametrize("name", DENSE_CODECS)
@pytest.mark.parametrize("number", [0.0, -0.0, 1e-45, 1e-38, 1e-30, 1.0, -3.7, 3.4e38, torch.finfo(torch.float32).max])
@pytest.mark.parametrize("numel", [1, 128, 300])
def test_constants(name, number, numel):
    values = torch.full((numel,), number)
    found = round_trip(get_codec(name), values)
    assert bool(((found.double() - values.double()).abs() <= bound(name, values)).all())
    assert len(found.unique()) == 1


@given(codecs, tensors())
def test_what_any_codec_decodes_is_finite_and_no_larger_than_what_it_got(codec, values):
    found = round_trip(codec, values)
    most = values.double().abs().max() if values.numel() else 0.0
    assert bool((found.double().abs() <= most * (1 + 2.0**-7) + 2.0**-126).all())


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
def test_flushing_subnormals_changes_nothing_that_is_decoded(name):
    codec = get_codec(name)
    scales = torch.tensor([1e-45, 1e-38, 1.1e-36, 3e-36, 2e-34, 1.0, 3.4e38])
    values = (torch.rand(7, 128, generator=torch.Generator().manual_seed(0)) * scales[:, None]).view(-1)
    payload = encoded(codec, values)
    expected = decoded(codec, payload, values.numel())
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        found = decoded(codec, payload, values.numel())
        again = round_trip(codec, values)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(found, expected)
    assert bool(((again.double() - values.double()).abs() <= bound(name, values)).all())


# ---- sizes and determinism


@given(codecs, tensors(), st.integers(0, 3))
def test_the_same_values_give_the_same_bytes_whatever_was_in_the_buffer(codec, values, offset):
    one = encoded(codec, values, filler=0)
    other = encoded(codec, values, filler=255, offset=4 * offset)
    assert torch.equal(one, other)
    found = decoded(codec, one, values.numel())
    assert torch.equal(found, decoded(codec, other.clone(), values.numel()))


@pytest.mark.parametrize("numel", [0, 1, 2, 127, 128, 129, 4095, 4096, 4097, 10_000])
@every_codec
def test_payloads_have_the_size_that_was_said(name, kept, numel):
    codec = get_codec(name, kept)
    values = torch.randn(numel, generator=torch.Generator().manual_seed(numel))
    # encode itself must not check: one byte less or more is another buffer, which reshaping refuses.
    assert encoded(codec, values).numel() == codec.encoded_bytes(numel)
    assert numel or not codec.encoded_bytes(numel)


@every_codec
def test_names_and_sizes_agree_with_the_plans(name, kept):
    codec = get_codec(name, kept)
    assert codec.name == name and codec.lossless == CODEC_FACTS[name].lossless == (name == "fp32")
    numel = 128 * 4096
    per_value = BYTES_PER_VALUE[name] if name in DENSE_CODECS else sparse_bytes(name, kept) / 4096
    assert codec.encoded_bytes(numel) == numel * per_value


def test_all_codecs_of_the_config_exist():
    assert {name for name, _ in ALL} == set(CODECS)
    with pytest.raises(ValueError, match="unknown codec 'fp8': there are fp32, bf16"):
        get_codec("fp8")


# ---- slices, threads, devices


@given(dense_codecs, tensors(), st.integers(1, 3))
def test_slices_at_multiples_of_a_block_say_what_the_whole_says(codec, values, blocks):
    whole = round_trip(codec, values)
    parts = [round_trip(codec, part) for part in values.split(blocks * codec.block)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
def test_lengths_beyond_a_working_set_say_the_same(name):
    codec = get_codec(name)
    values = torch.randn(300_001, generator=torch.Generator().manual_seed(0))
    parts = [round_trip(codec, part) for part in values.split(128 * 100)]
    assert torch.equal(round_trip(codec, values), torch.cat(parts))


@every_codec
def test_threads_may_share_a_codec(name, kept):
    codec = get_codec(name, kept)
    inputs = [torch.randn(50_000, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    expected = [round_trip(codec, values) for values in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda values: round_trip(codec, values), inputs))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_says_and_hears_the_same():
    values = torch.randn(9000, generator=torch.Generator().manual_seed(0))
    for name, kept in ALL:
        codec = get_codec(name, kept)
        payload = encoded(codec, values)
        expected = decoded(codec, payload, 9000)
        there = codec.encode(values.cuda(), torch.empty(len(payload), dtype=torch.uint8, device="cuda"))
        assert torch.equal(codec.decode(payload.cuda(), torch.empty(9000, device="cuda")).cpu(), expected), name
        # The largest values are the same, but may be sent in another order, in which other ones share a scale.
        off = 0.0 if name != "topk" else expected.abs().max().item() / 7
        torch.testing.assert_close(decoded(codec, there.cpu(), 9000), expected, rtol=0, atol=off)


# ---- error feedback


def feed_back(rounds):
    """Sends inputs and what earlier rounds left; returns what came in, was sent, is left, and may be rounding."""
    numel = rounds[0][1].numel()
    residual = torch.zeros(numel)
    given_in, sent, allowed = (torch.zeros(numel, dtype=torch.float64) for _ in range(3))
    for codec, values in rounds:
        total = values + residual
        said = round_trip(codec, total)
        residual = total - said
        given_in += values
        sent += said
        allowed += (total.abs() + said.abs()).double() * 2.0**-23 + 1e-45
    return given_in, sent, residual, allowed


@given(st.lists(codecs, min_size=1, max_size=8), st.integers(0, 5000), st.integers(0, 2**32), st.integers(-20, 20))
def test_what_was_sent_and_what_is_left_is_what_came_in(chosen, numel, seed, exponent):
    generator = torch.Generator().manual_seed(seed)
    rounds = [(codec, torch.randn(numel, generator=generator) * 10.0**exponent) for codec in chosen]
    given_in, sent, residual, allowed = feed_back(rounds)
    assert bool(((sent + residual.double() - given_in).abs() <= allowed).all())


@pytest.mark.parametrize(
    "name, kept, rounds", [*((n, 0, 6) for n in DENSE_CODECS), ("topk", 700, 40), ("randk", 1000, 90)]
)
def test_what_is_left_is_sent_when_nothing_more_comes(name, kept, rounds):
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(5000)
    chosen = [get_codec(name, kept, seed) for seed in range(rounds)]
    _, sent, residual, _ = feed_back([(codec, nothing if i else values) for i, codec in enumerate(chosen)])
    assert residual.abs().max() < 0.01 * values.abs().max()
    torch.testing.assert_close(sent.float(), values, rtol=0, atol=0.05)
