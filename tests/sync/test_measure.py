# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What is measured of links with more than two sites, on a clock of the test's own."""

from concurrent.futures import Future

import pytest
import torch

from geo_accel.config import LinkConfig
from geo_accel.masters import PlainMasters
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.cost import bytes_per_value, exchange_for
from geo_accel.profile.link import Link
from geo_accel.sync import contention
from geo_accel.sync.contention import measure_contention
from geo_accel.sync.measure import Rehearsal, levelled, measure_handling, measure_links
from geo_accel.topology import Site, Topology
from geo_accel.units import find_units
from geo_accel.wire.kernels import BLOCK

UP, DOWN = (1e6, 5e5, 2e5, 1e6), (1e7, 4e5, 1e7, 1e7)  # bytes per second
RANKS = range(len(UP))
SITES = tuple(Site(name=f"site{rank}", ranks=(rank,)) for rank in RANKS)


class Clock:
    """Transfers between four sites that take as long as the slowest end needs for what goes through it.

    Of those that take more than twice as long, `missed_s` are not seen: sites do not start at the very same moment.
    """

    one_ways = 2

    def __init__(self, missed_s=0.0):
        self.missed_s = missed_s

    def latency(self):
        return [0.0] * len(UP)

    def meet(self):
        pass

    def have_lost(self):
        return False

    def transfer(self, nbytes):
        return self.exchange(nbytes)[0]

    def exchange(self, nbytes, receivers=None):
        sends = nbytes if isinstance(nbytes, dict) else dict.fromkeys(RANKS, nbytes)
        receivers = set(receivers or RANKS)
        up = max(size * len(receivers - {rank}) / UP[rank] for rank, size in sends.items())
        down = max(sum(size for other, size in sends.items() if other != rank) / DOWN[rank] for rank in receivers)
        taken = max(up, down)
        return [taken - self.missed_s if taken > 2 * self.missed_s else taken] * len(UP)


def links_of(missed_s=0.0, **stated):
    clock = Clock(missed_s)
    return dict(measure_links(clock, Topology(sites=SITES, rank=0), LinkConfig(**stated), clock.latency()))


def test_both_directions_of_every_site_are_known():
    links = links_of()
    for rank, link in enumerate(links.values()):
        assert 1 / link.seconds_per_byte == pytest.approx(UP[rank], rel=0.01)
        # It hears no faster than the others together can speak; links nearly as fast as each other count as one.
        together = sum(UP[other] for other in RANKS if other != rank)
        assert 1 / link.down_seconds_per_byte == pytest.approx(min(DOWN[rank], together), rel=0.15)


def test_a_fast_uplink_is_probed_for_as_long_as_a_slow_one():
    # Sized by the links of all sites at once, the fastest one's probe took 40 ms, and 4 of them are a tenth.
    for rank, link in enumerate(links_of(missed_s=0.004).values()):
        assert 1 / link.seconds_per_byte == pytest.approx(UP[rank], rel=0.04)


def test_links_that_only_a_probe_tells_apart_are_one():
    assert levelled([1.0, 5.0, 1.1, 2.0, 1.12]) == pytest.approx([3.22 / 3, 5.0, 3.22 / 3, 2.0, 3.22 / 3])
    # A row of neighbours is not drawn together from end to end.
    assert levelled([1.0, 1.1, 1.2, 1.3]) == pytest.approx([1.05, 1.05, 1.25, 1.25])
    assert levelled([]) == []


def test_what_the_config_states_counts():
    for link in links_of(bandwidth_mbps=80.0).values():
        assert link.seconds_per_byte == pytest.approx(1e-7) and link.down_seconds_per_byte is None
    for link in links_of(latency_ms=7.0).values():
        # Stated is the line's, one way; a swap takes both.
        assert link.latency_s == pytest.approx(14e-3) and link.down_seconds_per_byte is not None


def test_what_sending_costs_is_per_byte_that_leaves(monkeypatch):
    # 1 ms of processor per byte that leaves, beside which copying and encoding are nothing.
    def at_once(work, *sizes):
        done = Future()
        done.set_result((work(*sizes), sizes))
        return done

    def crossing(transfer):
        seconds, (nbytes,) = transfer.result()
        return contention._Crossing(speed=2.0, seconds=seconds, processor_s=1e-3 * nbytes * (len(RANKS) - 1))

    monkeypatch.setattr(contention, "_for_a_while", lambda _: 2.0)
    monkeypatch.setattr(contention, "_beside_a_thread", lambda _: 1.0)
    monkeypatch.setattr(contention, "_beside_a_transfer", crossing)
    topology = Topology(sites=SITES, rank=0)
    rehearsal = Rehearsal(PlainMasters(find_units(torch.nn.Linear(64, 64)), topology), topology, ["fp32", "int8"])
    for _ in range(3):
        rehearsal.once()
    found = measure_contention(Clock(), at_once, Link.of(mbps=1, latency_ms=1), len(SITES) - 1)
    handling = measure_handling(rehearsal, found)
    assert list(handling) == ["fp32", "int8"]
    for name, (training_s, _) in handling.items():
        rule = Averaging(codec=name, exchange=exchange_for(len(SITES)))
        assert training_s == pytest.approx(1e-3 * bytes_per_value(rule), rel=0.02)


def test_rehearsing_changes_no_weight_and_counts_each_codec():
    topology = Topology(sites=SITES, rank=0)
    masters = PlainMasters(find_units(model := torch.nn.Linear(512, 512)), topology)
    before = [parameter.clone() for parameter in model.parameters()]
    rehearsal = Rehearsal(masters, topology, ["fp32", "int4", "topk"])
    for _ in range(3):
        rehearsal.once()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    # Somewhere between a hundredth of a nanosecond and ten microseconds, whatever the machine.
    for codec in ("fp32", "int4", "topk"):
        assert 1e-11 < rehearsal.training_s(codec) < 1e-5
    # The training thread does all of a dense round here, and of a sparse one what a snapshot takes.
    assert rehearsal.background_s("int4") == 0 < rehearsal.background_s("topk") < 1e-5


@pytest.mark.parametrize("sites", [3, 4, 5])
def test_rehearsing_with_shares_of_unlike_lengths_hears_finite_values(sites):
    # 11 blocks are dealt to the sites, the last of which gets more than the first: of what that says, codes would be
    # read as scales. Here they are a NaN's bits.
    topology = Topology(sites=tuple(Site(name=f"site{i}", ranks=(i,)) for i in range(sites)), rank=sites - 1)
    model = torch.nn.Linear(8 * 11 * BLOCK, 1, bias=False)
    masters = PlainMasters(find_units(model), topology)
    for seed in range(100):
        blocks = torch.randn(8 * 11, BLOCK, generator=torch.Generator().manual_seed(seed))
        blocks[:, :4] = -blocks[:, 4:].abs().amax(dim=1, keepdim=True) / 127
        model.weight.data.copy_(blocks.view(1, -1))
        Rehearsal(masters, topology, ["int8"]).once()
