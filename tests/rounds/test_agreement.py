# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Rounds on the weights themselves do what rounds on a snapshot do, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geo_accel.config import DENSE_CODECS
from geo_accel.config.parts import Outer
from geo_accel.masters import PlainMasters
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.plan import Piece
from geo_accel.rounds.agreement import NotFiniteError, Snapshot, agree
from geo_accel.rounds.exchange import Scratch, Terms
from geo_accel.rounds.outer import OuterStep
from geo_accel.rounds.rounds import InPlace
from geo_accel.units import find_units
from tests.transport.threads import bits, message, on_all_sites


def model_on(transport, widths, dtype):
    """Parameters of a few and of thousands of values, and unlike on every site."""
    net = nn.Sequential(*(nn.Linear(width, width + 3) for width in widths))
    noise = torch.Generator().manual_seed(transport.topology.rank)
    for parameter in net.parameters():
        parameter.detach().normal_(generator=noise)
    return net.to(dtype)


def rounds_on(transport, net, rule, outer, pieces, snapshots, replaces=False):
    """Two rounds of `pieces`, between which training moves the weights as each part of a round allows."""
    masters = PlainMasters(find_units(net), transport.topology)
    selection, step = masters.select(pieces), OuterStep(masters.size)
    anchor, noise = torch.zeros(masters.size), torch.Generator().manual_seed(7)
    for _ in range(2):
        snapshot = Snapshot(torch.zeros(selection.length))
        masters.read(selection, snapshot.values)
        weights = snapshot if snapshots else InPlace(masters, selection, replaces)
        course = agree(
            transport,
            Terms(averaging=rule, scratch=Scratch(), message=message()),
            weights,
            anchor,
            selection.ranges,
            None if outer == Outer() else lambda agreed, lo, hi: step.step(outer, agreed, lo, hi),
            replaces=replaces,
        )
        next(course)
        if not replaces:
            change = torch.randn(selection.length, generator=noise).view(1, -1) / 100
            masters.add(selection, change)
        next(course)
        assert next(course, "over") == "over"
        if snapshots:
            (masters.assign if replaces else masters.add)(selection, snapshot.values.view(1, -1))
    everything = torch.zeros(masters.size)
    masters.read(masters.select(masters.everything()), everything)
    return anchor, everything


@st.composite
def cases(draw):
    sites = draw(st.integers(2, 3))
    widths = draw(st.lists(st.sampled_from([1, 5, 47, 70]), min_size=1, max_size=3))
    parts = draw(st.integers(1, 3))
    pieces = [Piece(unit, part, parts) for unit in range(len(widths)) for part in range(parts) if draw(st.booleans())]
    rule = Averaging(codec=draw(st.sampled_from(DENSE_CODECS)), exchange=draw(st.sampled_from(("direct", "two-shot"))))
    outer = draw(st.sampled_from((Outer(), Outer(lr=0.8, momentum=0.6))))
    return sites, widths, pieces or [Piece(0)], rule, outer, draw(st.sampled_from((torch.float32, torch.bfloat16)))


@settings(max_examples=40)
@given(cases())
def test_weights_and_anchors_are_those_of_rounds_on_a_snapshot(case):
    sites, widths, pieces, rule, outer, dtype = case
    there, here = (
        on_all_sites(sites, lambda t, copy=copy: rounds_on(t, model_on(t, widths, dtype), rule, outer, pieces, copy))
        for copy in (True, False)
    )
    assert len(bits([anchor for anchor, _ in here])) == 1
    for one, other in zip(there, here, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_a_round_that_replaces_sets_the_weights_to_the_anchor():
    found = on_all_sites(
        2,
        lambda t: rounds_on(
            t, model_on(t, [70], torch.float32), Averaging(), Outer(), [Piece(0)], snapshots=False, replaces=True
        ),
    )
    assert len(bits([weights for _, weights in found])) == 1
    assert all(torch.equal(anchor, weights) for anchor, weights in found)


@pytest.mark.parametrize("place", [0, 4999, 5109])  # in a long stretch, at its end, in what is gathered
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_what_is_not_finite_is_refused_where_it_lies(place, bad):
    def life(transport):
        net = model_on(transport, [70], torch.float32)
        masters = PlainMasters(find_units(net), transport.topology)
        selection = masters.select([Piece(0)])
        assert selection.length == 70 * 73 + 73
        change = torch.zeros(1, selection.length)
        change[0, place] = bad
        masters.add(selection, change)
        terms = Terms(averaging=Averaging(codec="int8"), scratch=Scratch(), message=message())
        anchor = torch.zeros(masters.size)
        weights, ranges = InPlace(masters, selection), selection.ranges
        with pytest.raises(NotFiniteError) as caught:
            next(agree(transport, terms, weights, anchor, ranges, lambda *_: None, replaces=False))
        return caught.value.place

    assert on_all_sites(2, life) == [place, place]
