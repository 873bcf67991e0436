# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What the sites see of the emulated network: rates, delays, names and counters. Needs namespaces."""

import statistics
import sys
from pathlib import Path

import pytest

from geo_accel.lab import LabResult, run_sites

pytestmark = [pytest.mark.lab, pytest.mark.alone, pytest.mark.timeout(90)]
TRAFFIC = [sys.executable, "-S", str(Path(__file__).with_name("lab_traffic.py")), "{rank}", "{master}"]
HEADERS = 1514 / 1448


def shell(script: str, **settings: object) -> LabResult:
    return run_sites(["sh", "-c", script], timeout_s=30, **settings)


def median_s(result: LabResult) -> float:
    assert result.exit_code == 0, result
    return statistics.median(map(float, result.sites[1].output.split()))


@pytest.mark.parametrize(("mbps", "size"), [(20, 64 << 10), (100, 64 << 10), (100, 4 << 20), (300, 1 << 20)])
def test_messages_of_every_size_see_the_nominal_rate(mbps, size):
    result = run_sites([*TRAFFIC, str(size), "5"], bandwidth_mbps=[1000, mbps], verify=False, timeout_s=30)
    assert median_s(result) == pytest.approx(8 * size * HEADERS / (mbps * 1e6), rel=0.12)


def test_each_site_has_its_own_rate_and_the_probe_sees_it():
    result = shell("true", sites=3, bandwidth_mbps=[60, 40, 20])
    for site, mbps in zip(result.sites, (60, 40, 20), strict=True):
        assert site.wanted_mbps == mbps
        assert mbps * 0.85 < site.measured_mbps < mbps
    assert result.carrier == "bridge"


def test_byte_counts_are_those_of_the_run_without_the_probe():
    size = 1 << 20
    result = run_sites([*TRAFFIC, str(size), "4"], timeout_s=30)
    site0, site1 = result.sites
    assert 4 * size < site1.bytes_sent < 4 * size * HEADERS * 1.02
    assert site0.bytes_received == pytest.approx(site1.bytes_sent, rel=0.001)
    assert site0.bytes_sent < 0.06 * site1.bytes_sent
    assert site1.bytes_received == pytest.approx(site0.bytes_sent, rel=0.01)


def test_latency_is_added_to_each_direction_and_leaves_the_rate():
    result = run_sites([*TRAFFIC, "1", "6"], bandwidth_mbps=50, latency_ms=[20, 5], timeout_s=30)
    assert median_s(result) == pytest.approx(0.025, abs=0.008)
    for site in result.sites:
        assert site.measured_rtt_ms == pytest.approx(25, abs=8)
        assert 42.5 < site.measured_mbps < 50


@pytest.mark.parametrize("latency_ms", [pytest.param(0, id="bridge"), pytest.param(2, id="delayed")])
def test_a_site_receives_at_its_downlink_while_it_sends_at_its_uplink(latency_ms):
    size, seconds = 128 << 10, 2.5
    script = str(Path(__file__).with_name("lab_both_ways.py"))
    result = run_sites(
        [sys.executable, "-S", script, "{rank}", "{master}", str(size), str(seconds)],
        bandwidth_mbps=[60, 200],
        downlink_mbps=[20, 1000],
        latency_ms=latency_ms,
        verify=False,
        timeout_s=30,
    )
    assert result.exit_code == 0, result
    received_mbps, message_s = map(float, result.sites[1].output.split())
    round_trip_s = 2 * latency_ms / 1000
    # Acknowledgements of what site 0 sends take their part of its downlink.
    assert message_s == pytest.approx(8 * size * HEADERS / 20e6 + round_trip_s, rel=0.15)
    assert received_mbps == pytest.approx(60 / HEADERS, rel=0.12)


@pytest.mark.parametrize("latency_ms", [pytest.param(0, id="bridge"), pytest.param(2, id="delayed")])
def test_tcp_bears_what_a_slow_downlink_loses(latency_ms):
    size = 4 << 20
    result = run_sites(
        [*TRAFFIC, str(size), "3"],
        bandwidth_mbps=200,
        downlink_mbps=[30, 1000],
        latency_ms=latency_ms,
        verify=False,
        timeout_s=30,
    )
    assert median_s(result) == pytest.approx(8 * size * HEADERS / 30e6, rel=0.15)


SEND_DATAGRAMS = """
import socket, sys, time
if sys.argv[1] == "0":
    time.sleep(3)
    sys.exit()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for _ in range(1000):
        # Nobody answers a broadcast, so all counted bytes are these.
        link.sendto(bytes(200), ("10.77.0.255", 9))
        time.sleep(0.001)
"""


def test_loss_takes_its_share_of_the_packets():
    command = [sys.executable, "-S", "-c", SEND_DATAGRAMS, "{rank}"]
    result = run_sites(command, loss_percent=[0, 20], verify=False, timeout_s=30)
    assert result.exit_code == 0, result
    sent, received = result.sites[1].bytes_sent, result.sites[0].bytes_received
    assert sent > 200_000
    assert 0.7 < received / sent < 0.9


def test_sites_know_their_names_and_each_other():
    result = shell(
        "hostname; getent hosts site1 >/dev/null && echo resolved; getent hosts localhost >/dev/null && echo local"
    )
    assert [site.output.split() for site in result.sites] == [
        ["site0", "resolved", "local"],
        ["site1", "resolved", "local"],
    ]
    assert not result.notes


def test_the_ordinary_place_in_sys_shows_the_site_s_own_interface():
    result = shell("ls /sys/class/net; cat /sys/class/net/wan0/statistics/tx_bytes; ls -d /sys/fs")
    for site in result.sites:
        words = site.output.split()
        assert words[:2] == ["lo", "wan0"]
        assert int(words[2]) > 1e6, "the probe has sent more than that"
        assert words[3] == "/sys/fs"


def test_nothing_of_the_host_s_network_is_inside():
    result = shell("ip -4 -o address; ip route", bandwidth_mbps=1000, verify=False)
    for index, site in enumerate(result.sites):
        addresses = [line.split()[3] for line in site.output.splitlines() if "inet" in line]
        assert addresses == ["127.0.0.1/8", f"10.77.0.{index + 1}/24"]
        assert "default" not in site.output


def test_a_rate_beyond_this_machine_is_refused():
    with pytest.raises(ValueError, match=r"site\d sends .* Mbit/s instead of 100000: this machine is too slow"):
        shell("true", bandwidth_mbps=100_000)


def test_three_sites_reach_each_other_through_relays():
    script = f"""
        {sys.executable} -S -c "
import socket
names = ['site0', 'site1', 'site2']
server = socket.create_server(('', 6000))
import time; time.sleep(1)
for name in names: socket.create_connection((name, 6000), timeout=5).close()
time.sleep(1)
print('reached all')
" """
    result = shell(script, sites=3, latency_ms=3, verify=False)
    assert [site.output.strip() for site in result.sites] == ["reached all"] * 3
