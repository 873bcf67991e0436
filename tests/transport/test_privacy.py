# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What gloo will bind is looked at before weights pass it, and public addresses are refused on every rank."""

import ipaddress
import socket
from pathlib import Path

import pytest
import torch.distributed as dist

from geo_accel.config import load_config
from geo_accel.integrations.session import Presence
from geo_accel.transport import privacy
from geo_accel.transport.privacy import (
    bound_to_host_name,
    exposure,
    ipv6_addresses,
    public_address,
    refuse_public,
    ways_of_this_rank,
)

PUBLIC, PRIVATE = "8.8.8.8", "10.0.0.7"


@pytest.fixture
def names(monkeypatch):
    """Names that resolve to these addresses, and no variable set."""
    known = {"meeting.lan": [PRIVATE], "meeting.org": [PUBLIC], "box": [PUBLIC], "nowhere": []}

    def resolve(name, *_, **__):
        addresses = known.get(name, [name])
        if not addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    monkeypatch.setattr(privacy, "bound_to_host_name", lambda name: known[name] or ["127.0.0.1"])
    monkeypatch.setattr(privacy, "_addresses_of_interface", lambda name: {"wg0": [PRIVATE], "eth0": [PUBLIC]}[name])
    for variable in ("MASTER_ADDR", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(variable, raising=False)
    return known


@pytest.mark.parametrize(
    "address, public",
    [
        (PUBLIC, True),
        ("2001:4860:4860::8888", True),
        ("::ffff:8.8.8.8", True),
        (PRIVATE, False),
        ("100.64.1.2", False),  # of a provider's or an overlay's own
        ("127.0.1.1", False),
        ("::1", False),
        ("fd12::7", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.7", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert public_address([PRIVATE, address]) == (address if public else None)


def test_a_private_meeting_point_does_not_make_a_public_host_private(names, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "meeting.lan")
    found = exposure(ways_of_this_rank("auto", True))
    assert found == f"the host's name box (GLOO_SOCKET_IFNAME is not set) is the public address {PUBLIC}"
    names["box"] = [PRIVATE]
    assert exposure(ways_of_this_rank("auto", True)) is None


def test_a_public_meeting_point_is_exposed_whatever_gloo_binds(names, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "wg0")
    monkeypatch.setenv("MASTER_ADDR", "meeting.org")
    assert exposure(ways_of_this_rank("wg0", True)) == f"MASTER_ADDR meeting.org is the public address {PUBLIC}"
    monkeypatch.setenv("MASTER_ADDR", "nowhere")  # the launcher will say so
    assert exposure(ways_of_this_rank("wg0", True)) is None


def test_the_interface_counts_where_one_is_named(names, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "wg0")
    assert exposure(ways_of_this_rank("auto", True)) is None
    assert exposure(ways_of_this_rank("eth0", True)) == f"link.interface eth0 is the public address {PUBLIC}"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "wg0,eth0")
    assert exposure(ways_of_this_rank("auto", True)) == f"GLOO_SOCKET_IFNAME eth0 is the public address {PUBLIC}"


def test_the_launchers_own_gloo_group_was_made_without_link_interface(names):
    assert "the host's name box" in exposure(ways_of_this_rank("wg0", True))
    assert exposure(ways_of_this_rank("wg0", False)) is None  # NCCL: this machine's gloo is ours alone


def test_every_rank_refuses_and_names_the_one_that_is_exposed():
    found = {"a (rank 0)": (None, "k1"), "b (rank 1)": ("MASTER_ADDR x is the public address y", "k2")}
    with pytest.raises(
        ValueError, match=r"^b \(rank 1\): MASTER_ADDR x is .*WireGuard.*allow_public_plaintext"
    ) as one:
        refuse_public(found)
    assert len(str(one.value).splitlines()) == 1
    refuse_public({who: (exposed, "k1") for who, (exposed, _) in found.items()})  # one machine: nothing leaves it
    with pytest.raises(ValueError, match="rank 1"):
        refuse_public({who: (exposed, None) for who, (exposed, _) in found.items()})


@pytest.mark.parametrize("allowed", [False, True])
def test_a_rank_says_that_it_is_exposed_unless_that_is_allowed(names, monkeypatch, allowed):
    """What is refused then: tests/integrations/test_session.py."""
    monkeypatch.setenv("MASTER_ADDR", "meeting.lan")
    here = Presence.here(load_config({"resilience": {"allow_public_plaintext": allowed}}), "gloo")
    assert here.exposed is None if allowed else "the host's name box" in here.exposed


def listening():
    """Addresses at which this process's network listens, with their ports, as the kernel writes them."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/self/net", name).read_text().splitlines()]
    return {row[1] for row in rows if row[3] == "0A"}


def address_of(row):
    """From the kernel's words of 4 bytes, in the machine's order."""
    digits = row.split(":")[0]
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def test_gloo_binds_what_was_looked_at():
    """A seam: gloo does not say where it listens, so its choice is foreseen; it may choose otherwise one day."""
    interfaces = [name for _, name in socket.if_nameindex() if privacy._addresses_of_interface(name)]
    expected = {None: bound_to_host_name(socket.gethostname())}
    expected |= {name: privacy._addresses_of_interface(name) for name in interfaces}
    for name, addresses in expected.items():
        before = listening()
        gloo = dist.ProcessGroupGloo
        device = gloo.create_default_device() if name is None else gloo.create_device(interface=name)
        bound = {address_of(row) for row in listening() - before}
        assert bound and bound <= set(addresses), name
        del device


def test_addresses_of_an_interface_without_ipv4():
    table = (
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "20010db8000000000000000000000002 04 40 00 82     eth0\n"
        "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n"
    )
    assert ipv6_addresses(table, "eth0") == ["2001:db8::2", "fe80::fc:ff:fe00:1"]
    assert ipv6_addresses(table, "eth1") == ipv6_addresses("", "lo") == []
