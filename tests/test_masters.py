# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from geo_accel.masters import CopiedMasters, PlainMasters, Shard, ShardedMasters
from geo_accel.plan.partition import stream
from geo_accel.plan.plan import Piece
from geo_accel.topology import build_topology
from geo_accel.units import find_units


def model(widths):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width + 1) for width in widths))


def topology_of(slices, rank=0):
    return build_topology(rank, ["a"] * slices + ["b"] * slices, [None] * 2 * slices)


def read(masters, pieces):
    selection = masters.select(pieces)
    out = torch.full((selection.length,), torch.nan)
    masters.read(selection, out)
    return out


shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(shapes, st.integers(1, 4), st.integers(1, 7))
def test_slices_of_all_rounds_together_are_the_whole_model(widths, slices, period):
    net = model(widths)
    ranks = [PlainMasters(find_units(net), topology_of(slices, rank)) for rank in range(slices)]
    before = [parameter.clone() for parameter in net.parameters()]
    for pieces in filter(None, stream([length for _, length in ranks[0].carried], period)):
        rows = torch.stack([read(masters, pieces) for masters in ranks])
        assert not rows.isnan().any()  # padding is zeroed
        selection = ranks[0].select(pieces)
        ranks[0].add(selection, torch.ones_like(rows))
        ranks[0].add(selection, rows)
        ranks[0].assign(selection, rows * 3)
        ranks[0].written(selection)
    for old, parameter in zip(before, net.parameters(), strict=True):
        assert torch.equal(parameter, old * 3)


def test_parameters_that_lie_otherwise_in_memory_are_refused():
    """Collectives add what lies at the same place, not what has the same index: findings/gloo-memory-order.sh."""
    net = nn.Linear(2, 3)
    net.weight.data = net.weight.data.t().contiguous().t()
    with pytest.raises(ValueError, match="weight is not contiguous"):
        PlainMasters(find_units(net), topology_of(1))


def test_ranges_of_neighbours_are_merged():
    masters = PlainMasters(find_units(model([2, 3])), topology_of(1))
    assert masters.select([Piece(0), Piece(1)]).ranges == ((0, masters.size),)
    assert len(masters.select([Piece(1), Piece(0)]).ranges) == 2


def test_low_precision_weights_are_rounded_once():
    masters = PlainMasters(find_units(model([8]).bfloat16()), topology_of(1))
    values = read(masters, [Piece(0)])
    change = torch.full_like(values, 1e-3)
    masters.add(masters.select([Piece(0)]), change.view(1, -1))
    assert torch.equal(read(masters, [Piece(0)]), (values + change).bfloat16().float())


def test_masters_beside_the_model_keep_what_its_precision_cannot():
    net = model([8]).bfloat16()
    copies = {parameter: parameter.detach().float() for parameter in net.parameters()}
    masters = CopiedMasters(find_units(net), topology_of(1), copies)
    values, selection = read(masters, [Piece(0)]), masters.select([Piece(0)])
    before = masters.checksums()
    masters.add(selection, torch.full((1, selection.length), 1e-5))
    masters.written(selection)
    assert torch.equal(read(masters, [Piece(0)]), values + 1e-5)
    assert before != masters.checksums()
    for parameter, master in copies.items():
        assert torch.equal(parameter, master.bfloat16())


@st.composite
def cut_models(draw):
    """A model, and where its parameters, laid end to end, are cut into the shares of a site's ranks."""
    net = model(draw(shapes))
    total = sum(parameter.numel() for parameter in net.parameters())
    return net, sorted(draw(st.lists(st.integers(0, total), max_size=3)))


@given(cut_models(), st.integers(1, 5))
def test_shards_of_all_ranks_together_are_the_whole_model(cut, period):
    net, cuts = cut
    parameters, shards, place = list(net.parameters()), [], 0
    for first, last in zip([0, *cuts], [*cuts, sum(p.numel() for p in parameters)], strict=True):
        held, place = {}, 0
        for parameter in parameters:
            start, stop = max(first - place, 0), min(last - place, parameter.numel())
            if start < stop:
                held[parameter] = Shard(start, stop)
            place += parameter.numel()
        shards.append(held)
    stores = [{p: p.detach().view(-1)[one.start : one.stop].clone() for p, one in held.items()} for held in shards]
    told = []
    ranks = [
        ShardedMasters(
            find_units(net), topology_of(len(shards), rank), shards, store, lambda selection, _: told.append(selection)
        )
        for rank, store in enumerate(stores)
    ]
    for masters in ranks:
        for pieces in filter(None, stream([length for _, length in masters.carried], period)):
            row, selection = read(masters, pieces), masters.select(pieces)
            assert not row.isnan().any()
            masters.add(selection, torch.ones_like(row).view(1, -1))
            masters.add(selection, row.view(1, -1))
            masters.assign(selection, row.view(1, -1) * 3)
            masters.written(selection)
            assert told[-1] is selection and selection.mine == selection.site[masters._topology.local_index]
    assert sum(masters.size for masters in ranks) == sum(parameter.numel() for parameter in parameters)
    for held, store in zip(shards, stores, strict=True):
        for parameter, one in held.items():
            assert torch.equal(store[parameter], parameter.detach().view(-1)[one.start : one.stop] * 3)
