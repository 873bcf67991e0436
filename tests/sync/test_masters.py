# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from geo_accel.plan.partition import stream
from geo_accel.plan.plan import Piece
from geo_accel.sync.masters import PlainMasters, add, assign, gather
from geo_accel.topology import build_topology
from geo_accel.units import find_units


def model(widths):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width + 1) for width in widths))


def carried(masters, pieces, slice_index):
    out = torch.full((sum(hi - lo for lo, hi in masters.ranges(pieces)),), torch.nan)
    gather(masters.runs(pieces, slice_index), out)
    return out


shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(shapes, st.integers(1, 4), st.integers(1, 7))
def test_slices_of_all_rounds_together_are_the_whole_model(widths, slices, period):
    net = model(widths)
    topology = build_topology(0, ["a"] * slices + ["b"] * slices, [None] * 2 * slices)
    masters = PlainMasters(find_units(net), topology)
    before = [parameter.clone() for parameter in net.parameters()]
    for pieces in filter(None, stream([length for _, length in masters.carried], period)):
        rows = torch.stack([carried(masters, pieces, i) for i in range(slices)])
        assert not rows.isnan().any()  # padding is zeroed
        add(masters.all_runs(pieces), torch.ones_like(rows))
        add(masters.all_runs(pieces), rows)
        assign(masters.all_runs(pieces), rows * 3)
    for old, parameter in zip(before, net.parameters(), strict=True):
        assert torch.equal(parameter, old * 3)


def test_ranges_of_neighbours_are_merged():
    masters = PlainMasters(find_units(model([2, 3])), build_topology(0, ["a", "b"], [None] * 2))
    assert masters.ranges([Piece(0), Piece(1)]) == [(0, masters.size)]
    assert len(masters.ranges([Piece(1), Piece(0)])) == 2


def test_low_precision_weights_are_rounded_once():
    net = model([8]).bfloat16()
    masters = PlainMasters(find_units(net), build_topology(0, ["a", "b"], [None] * 2))
    values = carried(masters, [Piece(0)], 0)
    change = torch.full_like(values, 1e-3)
    add(masters.all_runs([Piece(0)]), change.view(1, -1))
    assert torch.equal(carried(masters, [Piece(0)], 0), (values + change).bfloat16().float())
