# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_accel.rounds import exact_mean
from tests.transport.threads import message, on_all_sites

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def on_sites(values, agree):
    """What each site holds after `agree(swap, peers, me, values)`."""

    def work(transport):
        mine, told = values[transport.topology.rank].clone(), message()
        agree(
            lambda sends, receives: transport.swap(sends, receives, told),
            transport.peers,
            transport.topology.rank,
            mine,
        )
        return mine

    return on_all_sites(len(values), work)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(0, 9), st.sampled_from(TYPES), st.booleans())
def test_all_sites_hold_the_mean_in_its_own_precision(sites, numel, dtype, weighed):
    generator = torch.Generator().manual_seed(sites * 100 + numel)
    values = [torch.randn(numel, generator=generator, dtype=torch.float64).to(dtype) for _ in range(sites)]
    shares = [2 * (i + 1) / (sites * (sites + 1)) for i in range(sites)] if weighed else []
    held = on_sites(values, lambda *how: exact_mean.mean(*how, shares))
    assert all(torch.equal(one, held[0]) for one in held) and held[0].dtype == dtype
    wanted = sum(value.double() * (shares[i] if weighed else 1 / sites) for i, value in enumerate(values))
    bound = {torch.float64: 1e-15, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert torch.allclose(held[0].double(), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_whole_numbers_are_the_first_sites(dtype):
    values = [torch.tensor([site, 1 - site % 2, 0]).to(dtype) for site in range(3)]
    assert all(torch.equal(one, values[0]) for one in on_sites(values, exact_mean.first))


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(TYPES[:2])), max_size=6))
def test_chunks_are_everything_once(shapes):
    tensors = [torch.zeros(numel, dtype=dtype) for numel, dtype in shapes]
    before, exact_mean.CHUNK = exact_mean.CHUNK, 4
    try:
        for stretches in exact_mean.chunks(tensors):
            assert 0 <= sum(stretch.numel() for stretch in stretches) <= 4
            assert len({stretch.dtype for stretch in stretches}) == 1
            for stretch in stretches:
                stretch.add_(1)
    finally:
        exact_mean.CHUNK = before
    assert all((tensor == 1).all() for tensor in tensors)
