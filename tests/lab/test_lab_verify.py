# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from geo_accel.lab.shaping import queue_commands, rate_command
from geo_accel.lab.sites import make_sites
from geo_accel.lab.verify import Measurement, find_fault, probe_phases


def test_a_link_as_wanted_has_no_fault():
    sites = make_sites(2, bandwidth_mbps=[100, 50], latency_ms=[20, 0])
    assert find_fault(sites, Measurement(mbps=[95.7, 47.0], rtt_ms=[20.5, 20.4]), "relay") is None


@pytest.mark.parametrize(
    ("mbps", "rtt_ms", "words"),
    [
        ([84.0, 47.0], [20.5, 20.5], "site0 sends 84 Mbit/s instead of 100"),
        ([95.0, 60.0], [20.5, 20.5], "site1 sends 60 Mbit/s instead of 50"),
        ([95.0, 47.0], [20.5, 2.0], "site1 has a round trip of 2 ms instead of 20"),
        ([95.0, 47.0], [60.0, 20.5], "site0 has a round trip of 60 ms instead of 20"),
    ],
)
def test_the_first_link_that_is_off_is_named(mbps, rtt_ms, words):
    sites = make_sites(2, bandwidth_mbps=[100, 50], latency_ms=[20, 0])
    assert words in find_fault(sites, Measurement(mbps=mbps, rtt_ms=rtt_ms), "relay")


def test_a_relay_that_limits_the_rate_is_blamed():
    sites = make_sites(2, bandwidth_mbps=1000, latency_ms=20)
    fault = find_fault(sites, Measurement(mbps=[400, 400], rtt_ms=[40, 40]), "relay")
    assert "the relay that delays packets is too slow" in fault


def test_loss_may_slow_tcp_down():
    sites = make_sites(2, loss_percent=2)
    assert find_fault(sites, Measurement(mbps=[12.0, 20.0], rtt_ms=[0.1, 200]), "relay") is None
    assert find_fault(sites, Measurement(mbps=[120.0, 20.0], rtt_ms=[0.1, 0.1]), "relay") is not None


@pytest.mark.parametrize(
    ("mbps", "words"),
    [
        ([19.1, 95.7], None),
        ([95.7, 95.7], "site1 receives 95.7 Mbit/s instead of 20: shaping does not hold"),
        ([16.0, 95.7], "site1 receives 16 Mbit/s instead of 20: this machine is too slow"),
        ([19.1, 84.0], "site1 sends 84 Mbit/s instead of 100"),
    ],
)
def test_a_link_is_as_fast_as_its_slower_end(mbps, words):
    sites = make_sites(2, bandwidth_mbps=100, downlink_mbps=[1000, 20])
    fault = find_fault(sites, Measurement(mbps=mbps, rtt_ms=[0.1, 0.1]), "bridge")
    assert fault is None if words is None else words in fault


@pytest.mark.parametrize("count", range(1, 8))
def test_with_downlinks_no_site_sends_and_receives_in_the_same_phase(count):
    assert [len(phase) for phase in probe_phases(make_sites(count))] == [count]
    sites = make_sites(count, downlink_mbps=20)
    phases = [[site.index for site in phase] for phase in probe_phases(sites)]
    assert sorted(index for phase in phases for index in phase) == list(range(count))
    for phase in phases:
        receiving = {(index + 1) % count for index in phase}
        assert count == 1 or receiving.isdisjoint(phase)


def test_one_site_has_nothing_to_measure():
    assert find_fault(make_sites(1), Measurement(mbps=[None], rtt_ms=[None]), "bridge") is None


@pytest.mark.parametrize("mbps", [0.1, 20, 100, 1000])
def test_bursts_are_small_beside_a_message_and_never_below_a_packet(mbps):
    (command,) = queue_commands(make_sites(1, bandwidth_mbps=mbps)[0], netem=False)
    burst = int(command[command.index("burst") + 1])
    assert 1514 < burst <= 64 * 1024 / 2


def test_netem_delays_before_the_rate_is_shaped():
    site = make_sites(1, bandwidth_mbps=100, latency_ms=12.5, loss_percent=1)[0]
    delay, rate = queue_commands(site, netem=True)
    assert delay[delay.index("netem") :][:5] == ["netem", "delay", "12.5ms", "loss", "1%"]
    assert rate[rate.index("tbf") :][:3] == ["tbf", "rate", "100000000bit"]
    assert delay[delay.index("handle") + 1] == "1:"
    assert rate[rate.index("parent") + 1] == "1:1"


@pytest.mark.parametrize("mbps", [0.1, 20, 1000])
def test_a_downlink_is_shaped_like_an_uplink_of_its_rate(mbps):
    (uplink,) = queue_commands(make_sites(1, bandwidth_mbps=mbps)[0], netem=False)
    downlink = rate_command("port3", mbps)
    assert downlink == ["port3" if word == "wan0" else word for word in uplink]
    assert downlink[:6] == ["tc", "qdisc", "add", "dev", "port3", "root"]
    queue_s = 8 * int(downlink[downlink.index("limit") + 1]) / (mbps * 1e6)
    assert queue_s >= 0.1


@pytest.mark.parametrize("netem", [False, True])
def test_a_queue_is_changed_where_it_was_added_by_the_same_rules(netem):
    site = make_sites(1, bandwidth_mbps=30, latency_ms=10)[0]
    added = queue_commands(site, netem=netem)
    changed = queue_commands(site, netem=netem, action="change")
    assert all("add" in command for command in added)
    assert changed == [["change" if word == "add" else word for word in command] for command in added]
