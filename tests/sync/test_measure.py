# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What is measured of links with more than two sites, on a clock of the test's own."""

from concurrent.futures import Future

import pytest
import torch

from geo_accel.config import LinkConfig
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.cost import bytes_per_value, exchange_for
from geo_accel.sync import measure
from geo_accel.sync.masters import PlainMasters
from geo_accel.sync.measure import Rehearsal, measure_handling, measure_links
from geo_accel.topology import Site, Topology
from geo_accel.units import find_units

UP, DOWN = (1e6, 5e5, 2e5, 1e6), (1e7, 4e5, 1e7, 1e7)  # bytes per second
RANKS = range(len(UP))
SITES = tuple(Site(name=f"site{rank}", ranks=(rank,)) for rank in RANKS)


class Rounds:
    """Transfers between four sites that take as long as the slowest end needs for what goes through it."""

    def time_transfer(self, nbytes, senders=None, receivers=None):
        senders, receivers = set(senders or RANKS), set(receivers or RANKS)
        up = max(nbytes * len(receivers - {rank}) / UP[rank] for rank in senders)
        down = max(nbytes * len(senders - {rank}) / DOWN[rank] for rank in receivers)
        return max(up, down), 0.0


class Control:
    """Every rank saw the same."""

    def gather(self, what, value):
        return [value for _ in RANKS]


def links_of(**stated):
    return dict(measure_links(Control(), Rounds(), Topology(sites=SITES, rank=0), LinkConfig(**stated)))


def test_both_directions_of_every_site_are_known():
    links = links_of()
    for rank, link in enumerate(links.values()):
        assert 1 / link.seconds_per_byte == pytest.approx(UP[rank], rel=0.01)
        # The others send equal shares to one: it hears no faster than three times what the slowest of them sends.
        slowest = 3 * min(UP[other] for other in RANKS if other != rank)
        assert 1 / link.down_seconds_per_byte == pytest.approx(min(DOWN[rank], slowest), rel=0.01)


def test_what_the_config_states_counts():
    for link in links_of(bandwidth_mbps=80.0).values():
        assert link.seconds_per_byte == pytest.approx(1e-7) and link.down_seconds_per_byte is None
    for link in links_of(latency_ms=7.0).values():
        assert link.latency_s == pytest.approx(7e-3) and link.down_seconds_per_byte is not None


def test_what_sending_costs_is_per_byte_that_leaves(monkeypatch):
    # 1 ms of processor per byte that leaves, beside which copying and encoding are nothing.
    monkeypatch.setattr(measure, "_share_lost", lambda *_: 1.0)
    monkeypatch.setattr(measure, "_for_a_while", lambda: 1.0)
    monkeypatch.setattr(measure, "_burn", lambda going_on: 1.0)
    topology = Topology(sites=SITES, rank=0)
    masters = PlainMasters(find_units(torch.nn.Linear(64, 64)), topology)

    class Costly(Rounds):
        def __init__(self):
            self.masters = masters

        def time_transfer(self, nbytes, senders=None, receivers=None):
            return super().time_transfer(nbytes)[0], 1e-3 * nbytes * (len(RANKS) - 1)

        def begin_transfer(self, nbytes):
            future = Future()
            future.set_result(self.time_transfer(nbytes))
            return future

    rounds = Costly()
    rehearsal = Rehearsal(rounds, topology, ["fp32", "int8"])
    for _ in range(3):
        rehearsal.once()
    handling = measure_handling(Control(), rounds, topology, rehearsal)
    assert list(handling) == ["fp32", "int8"]
    for name, found in handling.items():
        rule = Averaging(codec=name, exchange=exchange_for(len(SITES)))
        assert found.training_s == pytest.approx(1e-3 * bytes_per_value(rule), rel=0.02)


def test_rehearsing_changes_no_weight_and_counts_each_codec():
    topology = Topology(sites=SITES, rank=0)
    rounds = Rounds()
    rounds.masters = PlainMasters(find_units(model := torch.nn.Linear(512, 512)), topology)
    before = [parameter.clone() for parameter in model.parameters()]
    rehearsal = Rehearsal(rounds, topology, ["fp32", "int4", "topk"])
    for _ in range(3):
        rehearsal.once()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    # Somewhere between a hundredth of a nanosecond and ten microseconds, whatever the machine.
    for codec in ("fp32", "int4", "topk"):
        assert 1e-11 < rehearsal.training_s(codec) < 1e-5
    # The training thread does all of a dense round here, and of a sparse one what a snapshot takes.
    assert rehearsal.background_s("int4") == 0 < rehearsal.background_s("topk") < 1e-5
