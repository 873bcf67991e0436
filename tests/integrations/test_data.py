# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One data set over the ranks of all sites, each site's job knowing of its own ranks alone."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from geo_accel.integrations import data
from geo_accel.integrations.accelerate import _deal
from geo_accel.integrations.data import deal_over_sites, is_shuffled, sample_order_is_agreed
from geo_accel.topology import Site, Topology
from tests.transport.table import on_ranks


def session(sizes, rank, control=None):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    sites = tuple(
        Site(name=f"site{i}", ranks=tuple(range(end - size, end)))
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    )
    return SimpleNamespace(topology=Topology(sites=sites, rank=rank), one_world=False, control=control)


def prepared(examples, batch=2, **how):
    """As Accelerate prepares it in a job of one process."""
    return Accelerator(cpu=True).prepare(DataLoader(examples, batch_size=batch, **how))


def read(loader):
    return [batch.tolist() for batch in loader]


@settings(max_examples=25)
@given(st.integers(1, 40), st.lists(st.just(1), min_size=2, max_size=4))
def test_every_example_is_some_ranks_and_all_make_as_many_steps(examples, sizes):
    found = []
    for rank in range(sum(sizes)):
        loader = prepared(list(range(examples)))
        deal_over_sites(loader, session(sizes, rank))
        found.append(read(loader))
        assert len(loader) == len(found[-1])
    assert len({len(batches) for batches in found}) == 1
    assert {one for batches in found for batch in batches for one in batch} == set(range(examples))


def test_what_a_job_of_several_ranks_has_dealt_is_dealt_anew():
    found = []
    for rank, (place, size) in enumerate([(0, 2), (1, 2), (0, 1)]):
        loader = prepare_data_loader(
            DataLoader(list(range(12)), batch_size=2), num_processes=size, process_index=place
        )
        deal_over_sites(loader, session([2, 1], rank))
        found.append(read(loader))
    assert found == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(8))


def test_sites_share_a_stream():
    found = []
    for rank in range(2):
        loader = prepare_data_loader(DataLoader(Stream(), batch_size=2), dispatch_batches=False)
        assert is_shuffled(loader)
        for _ in range(2):  # as several GeoSyncs do, which see the same loader
            deal_over_sites(loader, session([1, 1], rank))
        found.append(read(loader))
    assert found == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("settle, share", [(data.shard_in_site, 8), (data.shard_over_sites, 4)])
def test_geosync_leaves_alone_what_the_script_has_settled(monkeypatch, caplog, settle, share, shuffle):
    here = session([1, 1], 1, SimpleNamespace(broadcast=lambda what, make: make()))
    monkeypatch.setattr(data, "of_jobs", lambda config: here)
    loader = settle(prepared(list(range(8)), shuffle=shuffle))
    _deal(SimpleNamespace(_dataloaders=[loader], even_batches=True), here)
    assert sum(map(len, read(loader))) == share and not caplog.records


def test_a_loader_that_one_process_reads_for_its_site_is_refused():
    with pytest.raises(ValueError, match="dispatch_batches=False"):
        deal_over_sites(prepared(Stream()), session([1, 1], 0))


@pytest.mark.parametrize("seedable", [True, False])
def test_sites_that_drew_other_orders_take_the_first_ones(seedable):
    def work(rank, control):
        order = None if seedable else torch.Generator().manual_seed(rank)
        plain = DataLoader(list(range(32)), batch_size=4, shuffle=True, generator=order)
        loader = prepare_data_loader(plain, use_seedable_sampler=seedable, data_seed=rank + 7 if seedable else None)
        assert is_shuffled(loader)
        here = session([1, 1], rank, control)
        deal_over_sites(loader, here)
        sample_order_is_agreed(loader, here)
        return [read(loader), read(loader)]

    first, second = on_ranks(2, lambda rank, control: work(rank, Decides(control)))
    for epoch in range(2):
        assert sorted(one for batch in first[epoch] + second[epoch] for one in batch) == list(range(32))
    assert first[0] != first[1] or seedable


class Decides:
    """`broadcast` of a control plane, which the table lacks."""

    def __init__(self, control):
        self._control = control

    def broadcast(self, what, make):
        return self._control.gather(what, make())[0]
