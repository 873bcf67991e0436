# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which values sparse codecs send, and that they arrive where they were."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.config import SPARSE_CHUNK as CHUNK
from geo_accel.wire import largest
from geo_accel.wire.codec import get_codec
from geo_accel.wire.sparse import RandK, TopK, _choose_with_torch, _parts, _place_bytes, _spread_with_torch

INT4 = 1 / 14 + 1e-6
"""How far what was sent is off, as a share of the largest of its block."""


def round_trip(codec, values):
    payload = codec.encode(values, torch.full((codec.encoded_bytes(len(values)),), 255, dtype=torch.uint8))
    return codec.decode(payload, torch.full_like(values, float("nan")))


def spread(numel, seed, levels=0):
    """Magnitudes from 1 to 2, so that 4 bits round none to 0; of a few levels, there are many ties."""
    generator = torch.Generator().manual_seed(seed)
    magnitudes = torch.rand(numel, generator=generator)
    if levels:
        magnitudes = magnitudes.mul_(levels).floor_().div_(levels)
    signs = torch.randint(0, 2, (numel,), generator=generator) * 2 - 1
    return (magnitudes + 1) * signs


def check_largest(values, found, kept):
    for chunk, said in zip(values.split(CHUNK), found.split(CHUNK), strict=True):
        sent = said != 0
        assert int(sent.sum()) == -(-kept * len(chunk) // CHUNK)
        if not bool(sent.all()):
            assert chunk[sent].abs().min() >= chunk[~sent].abs().max()
        assert (said - chunk)[sent].abs().max() <= 2 * INT4


# 1 to 341 are sent with places of 12 bits, more with a bit for every value; 341 with either, as it fits.
KEPT = [1, 2, 4, 41, 204, 341, 342, 700, 2000, 4095, 4096]
NUMEL = [0, 1, 2, 7, 8, 9, 100, 4095, 4096, 4097, 2 * 4096, 3 * 4096 + 1001]


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("numel", NUMEL)
def test_topk_sends_the_largest_of_every_chunk(kept, numel):
    values = spread(numel, seed=kept)
    found = round_trip(get_codec("topk", kept), values)
    if numel:
        check_largest(values, found, kept)


@given(st.integers(1, 4096), st.integers(1, 10_000), st.integers(0, 2**32), st.sampled_from([0, 1, 3, 50]))
def test_topk_with_any_numbers_and_ties(kept, numel, seed, levels):
    values = spread(numel, seed, levels)
    check_largest(values, round_trip(get_codec("topk", kept), values), kept)


@pytest.mark.parametrize("kept", KEPT)
def test_topk_finds_them_wherever_they_are(kept):
    # In one run, at a stride, at the ends: whichever groups a choice goes by, some of these are in few.
    for places in (
        torch.arange(kept),
        torch.arange(CHUNK - kept, CHUNK),
        torch.arange(kept) * 8 % CHUNK + torch.arange(kept) * 8 // CHUNK,
        torch.arange(kept) * 512 % CHUNK + torch.arange(kept) * 512 // CHUNK,
    ):
        values = torch.full((2, CHUNK), 1e-9)
        values[:, places] = spread(2 * kept, seed=1).view(2, kept)
        found = round_trip(get_codec("topk", kept), values.view(-1)).view(2, CHUNK)
        assert bool((found[:, places] != 0).all())
        if kept < CHUNK:
            assert int((found != 0).sum()) == 2 * kept
        assert (found - values).abs().max() <= 2 * INT4


@pytest.mark.parametrize("kept", [4, 700])
def test_every_place_arrives_in_both_forms(kept):
    codec = get_codec("topk", kept)
    others = torch.arange(kept - 1)
    for place in range(kept, CHUNK, 7):
        values = torch.zeros(CHUNK)
        values[others] = -1.0
        values[place] = 1.0
        expected = values.clone()
        assert torch.allclose(round_trip(codec, values), expected, atol=1e-6)


@given(st.integers(1, 4096), st.integers(1, 9000), st.integers(0, 2**32))
def test_topk_is_the_same_with_torch(kept, numel, seed):
    """What accelerators run, here on the CPU: the same bits both ways where no two magnitudes are equal."""
    for rows, width, most in _parts(numel, kept):
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(rows, width, generator=generator).argsort(dim=1) + 1.0
        values = order * (torch.randint(0, 2, (rows, width), generator=generator) * 2 - 1)
        size, as_bits = _place_bytes(rows, width, most)
        here, there = torch.empty(rows, most), torch.empty(rows, most)
        places, with_torch = torch.empty(size, dtype=torch.uint8), torch.full((size,), 255, dtype=torch.uint8)
        largest.choose(values.numpy(), here.numpy(), places.numpy(), as_bits)
        _choose_with_torch(values, there, with_torch, as_bits)
        assert torch.equal(here, there) and torch.equal(places, with_torch)
        one, other = torch.full_like(values, torch.nan), torch.full_like(values, torch.nan)
        assert largest.spread(here.view(-1).numpy(), places.numpy(), one.numpy(), as_bits)
        _spread_with_torch(there, with_torch, other, as_bits)
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_a_place_beyond_a_shorter_chunk_is_refused():
    codec = get_codec("topk", 1)
    payload = codec.encode(torch.ones(100), torch.empty(codec.encoded_bytes(100), dtype=torch.uint8))
    payload[68:70] = 255
    with pytest.raises(ValueError, match="topk: a payload names a value beyond the 100 of its chunk"):
        codec.decode(payload, torch.empty(100))


def test_topk_of_nothing_but_zeros_is_zeros():
    for kept in KEPT:
        assert not torch.any(round_trip(get_codec("topk", kept), torch.zeros(5000)))


def test_sizes_by_hand():
    # 32 chunks of 4: one block of values, 64 + 4 bytes, and 128 places in 192 bytes.
    assert get_codec("topk", 4).encoded_bytes(32 * CHUNK) == 68 + 192
    # 1024 values in 8 blocks, and a bit for each of 4096.
    assert get_codec("topk", 1024).encoded_bytes(CHUNK) == 8 * 68 + 512
    # One value of one, with one byte for its place, filled up to 4.
    assert get_codec("topk", 1024).encoded_bytes(1) == 68 + 4
    # Three values, one of which has no neighbour: 6 bytes for their places, filled up to 8.
    assert get_codec("topk", 3).encoded_bytes(CHUNK) == 68 + 8
    assert get_codec("randk", 4).encoded_bytes(32 * CHUNK) == 68
    assert get_codec("randk", 1).encoded_bytes(CHUNK + 1) == 68


@given(st.integers(1, 4096), st.integers(1, 10_000), st.integers(0, 2**32))
def test_randk_sends_its_share(kept, numel, seed):
    values = spread(numel, seed=0)
    found = round_trip(get_codec("randk", kept, seed), values)
    sent = found != 0
    assert int(sent.sum()) == -(-kept * numel // CHUNK)
    assert (found - values)[sent].abs().max() <= 2 * INT4


def test_randk_draws_by_seed():
    def places(kept, seed, numel=20_000):
        return set(
            (round_trip(get_codec("randk", kept, seed), spread(numel, seed=seed + 7)) != 0)
            .nonzero()
            .flatten()
            .tolist()
        )

    one = places(400, 1)
    get_codec.cache_clear()
    assert places(400, 1) == one
    # Other seeds draw others: of 1954 of 20000 about one in ten is the same.
    assert 100 < len(one & places(400, 2)) < 300
    # All parts of the values are drawn from, which no site can know without the seed.
    assert all(len([place for place in one if low <= place < low + 4000]) > 300 for low in range(0, 20_000, 4000))


def test_randk_sends_everything_in_time():
    values = spread(5000, seed=0)
    heard = torch.zeros(5000, dtype=torch.bool)
    for seed in range(100):
        heard |= round_trip(get_codec("randk", 410, seed), values) != 0
    assert bool(heard.all())


@pytest.mark.parametrize("make", [TopK, lambda kept: RandK(kept, 0)])
@pytest.mark.parametrize("kept", [0, -1, 4097, True, 1.5])
def test_other_numbers_are_refused(make, kept):
    with pytest.raises(ValueError, match="keeps 1 to 4096 values of every 4096, not"):
        make(kept)
