# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How gloo's connections begin and end; what they carry is in test_conformance.py."""

import pytest
import torch.distributed as dist

from geo_accel.topology import Site, Topology
from geo_accel.transport import gloo
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.gloo import GlooTransport

ALONE = Topology((Site("here", (0,)),), rank=0)


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_an_interface_that_is_not_there_is_a_lost_site_with_its_reason(world):
    with pytest.raises(SiteLostError, match=r"is link\.interface right\? \(.*no-such-0") as caught:
        GlooTransport(ALONE, 5.0, "no-such-0")
    assert caught.value.retryable and "\n" not in str(caught.value)


def test_peers_that_cannot_be_reached_are_named(monkeypatch):
    said = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:9] Connect timeout. This is typically a firewall\nmore"
    )

    def new_group(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(gloo, "new_group", new_group)
    sites = tuple(Site(name, (rank,)) for rank, name in enumerate(("here", "there", "beyond")))
    with pytest.raises(SiteLostError) as caught:
        GlooTransport(Topology(sites, rank=0), 5.0)
    assert str(caught.value) == (
        "here could not connect to there, beyond within 0 s: are all ports between the sites open, and is "
        "link.interface right? (Connect timeout)"
    )


@pytest.mark.parametrize("ended", [False, True])
def test_closing_is_the_same_before_and_after_the_job_s_own_group_has_ended(world, ended):
    transport = GlooTransport(ALONE, 5.0)
    if ended:
        dist.destroy_process_group()
    transport.close()
    transport.close()
