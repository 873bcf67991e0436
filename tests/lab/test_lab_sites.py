# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.lab.sites import choose_port, make_sites, site_command, site_environment

TOKENS = ("{rank}", "{sites}", "{master}", "{site}")


def test_placeholders_are_filled_in_per_site_also_inside_an_argument():
    sites = make_sites(3)
    command = ["run", "--rank={rank}/{sites}", "{master}:29500", "{site}.log"]
    assert site_command(command, sites[2], sites) == ["run", "--rank=2/3", "10.77.0.1:29500", "site2.log"]


@given(st.lists(st.text(alphabet="{}abrankste\"':, \\") | st.text()))
def test_text_without_our_tokens_is_left_alone(command):
    sites = make_sites(2)
    command = [argument for argument in command if not any(token in argument for token in TOKENS)]
    assert site_command(command, sites[1], sites) == command


def test_json_arguments_keep_their_braces():
    sites = make_sites(2)
    argument = json.dumps({"rank": {"foo": 1}, "{foo}": "{}"})
    assert site_command([argument], sites[0], sites) == [argument]


def test_one_rank_per_site_gets_what_accelerate_expects_on_cpu():
    sites = make_sites(2)
    environment = site_environment(sites[1], sites, ranks_per_site=1, master_port=29500, base={"HOME": "/h"})
    assert environment["HOME"] == "/h"
    expected = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "1"}
    expected |= {"GROUP_RANK": "1", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500", "LOCAL_SIZE": "1"}
    expected |= {"GLOO_SOCKET_IFNAME": "wan0", "OMP_NUM_THREADS": "1", "GEO_ACCEL_LAB": "1"}
    assert expected.items() <= environment.items()
    assert "GEO_ACCEL_SITE" not in environment


def test_several_ranks_per_site_leave_ranks_to_torchrun_and_drop_stale_ones():
    sites = make_sites(2)
    base = {"RANK": "7", "WORLD_SIZE": "9", "LOCAL_RANK": "3", "OMP_NUM_THREADS": "4"}
    environment = site_environment(sites[0], sites, ranks_per_site=2, master_port=29500, base=base)
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} & set(environment)
    assert environment["LOCAL_SIZE"] == "2"
    assert environment["OMP_NUM_THREADS"] == "4"


def test_numbers_hold_for_all_sites_or_one_each():
    assert [site.bandwidth_mbps for site in make_sites(3, bandwidth_mbps=50)] == [50, 50, 50]
    assert [site.bandwidth_mbps for site in make_sites(3, bandwidth_mbps=[100, 50, 20])] == [100, 50, 20]
    assert [site.latency_ms for site in make_sites(2, latency_ms=(5, 0))] == [5, 0]
    assert [site.downlink_mbps for site in make_sites(2)] == [None, None]
    assert [site.downlink_mbps for site in make_sites(2, downlink_mbps=50)] == [50, 50]
    assert [site.downlink_mbps for site in make_sites(2, downlink_mbps=[50, 20])] == [50, 20]


@pytest.mark.parametrize(
    ("count", "settings", "words"),
    [
        (0, {}, "sites: 0"),
        (251, {}, "sites: 251"),
        (2, {"bandwidth_mbps": [1, 2, 3]}, "bandwidth_mbps: 3 values for 2 sites"),
        (2, {"bandwidth_mbps": 0}, "bandwidth_mbps: 0"),
        (2, {"bandwidth_mbps": float("nan")}, "bandwidth_mbps: nan"),
        (2, {"downlink_mbps": [1, 2, 3]}, "downlink_mbps: 3 values for 2 sites"),
        (2, {"downlink_mbps": 0}, "downlink_mbps: 0 given"),
        (2, {"downlink_mbps": 5, "shaping": False}, "downlink_mbps needs shaping: leave out --no-shaping"),
        (2, {"latency_ms": -1}, "latency_ms: -1"),
        (2, {"loss_percent": 99}, "loss_percent: 99"),
        (2, {"latency_ms": 5, "shaping": False}, "--no-shaping"),
    ],
)
def test_settings_that_cannot_work_are_named(count, settings, words):
    with pytest.raises(ValueError, match=words):
        make_sites(count, **settings)


def test_without_shaping_sites_share_the_loopback():
    sites = make_sites(2, shaping=False)
    port = choose_port(29500, shaping=False)
    environment = site_environment(sites[1], sites, ranks_per_site=1, master_port=port, base={})
    assert environment["MASTER_ADDR"] == "127.0.0.1"
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert int(environment["MASTER_PORT"]) == port > 1023
