# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_accel.plan.request import BUDGET
from geo_accel.plan.shapes import Workload, profile_of, read_shape
from geo_accel.plan.simulate import METHODS, PERIODIC, STREAMS, Scenario, expand, simulate
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, UnitProfile


def scenario(model="gpt2", mbps=1000.0, latency_ms=20.0, sites=4, **given_):
    work = Workload(flops=50e12, batch=4, sequence=512, micro_batches=4)
    asked = Scenario(profile=profile_of(read_shape(model), work), sites=sites, **({"period": 8} | given_))
    return asked.over([Link.of(mbps=mbps, latency_ms=latency_ms)])


units = st.builds(
    lambda numel, forward, backward: (numel, forward, backward),
    st.integers(1, 10**6),
    st.floats(0, 0.1),
    st.floats(1e-4, 0.1),
)
models = st.lists(units, min_size=1, max_size=8).map(
    lambda found: Profile(
        units=tuple(
            UnitProfile(name=f"u{place}", numel=numel, forward_s=forward, backward_s=backward)
            for place, (numel, forward, backward) in enumerate(found)
        )
    )
)
speeds = st.floats(1, 100_000)


def over(profile, mbps, latency_ms, period, sites=3):
    return Scenario(profile=profile, sites=sites, period=period).over([Link.of(mbps=mbps, latency_ms=latency_ms)])


@settings(deadline=None, max_examples=25)
@given(profile=models, mbps=speeds, latency_ms=st.floats(0, 100), period=st.integers(1, 12))
def test_nothing_is_faster_than_no_wan(profile, mbps, latency_ms, period):
    asked = over(profile, mbps, latency_ms, period)
    none = simulate(asked, "none")
    assert none.efficiency == 1 and none.wan_bytes_per_step == 0
    for method in METHODS:
        outcome = simulate(asked, method)
        assert outcome.step_s >= none.step_s * (1 - 1e-9)
        assert 0 < outcome.efficiency <= 1


@settings(deadline=None, max_examples=25)
@given(profile=models, speeds=st.tuples(speeds, speeds), latency_ms=st.floats(0, 100), period=st.integers(1, 12))
def test_more_bandwidth_is_never_slower(profile, speeds, latency_ms, period):
    slow, fast = (over(profile, mbps, latency_ms, period) for mbps in sorted(speeds))
    for method in ("ssgd", "local-sgd"):
        assert simulate(fast, method).step_s <= simulate(slow, method).step_s * (1 + 1e-9)
    # These choose: a smaller delay, a shorter period or more bits for what a budget allows.
    for method in (*STREAMS, "auto"):
        assert simulate(fast, method).step_s <= simulate(slow, method).step_s * (1 + BUDGET["stream"] + 1e-9)


@settings(deadline=None)
@given(profile=models, mbps=speeds, period=st.integers(1, 12))
def test_dreamddp_is_never_worse_than_equal_numbers(profile, mbps, period):
    # Without latency: with it, units are bundled, and each schedule bundles others.
    asked = over(profile, mbps, 0.0, period)
    assert simulate(asked, "dreamddp").step_s <= simulate(asked, "enp").step_s * (1 + 1e-9)


@pytest.mark.parametrize("method", [*STREAMS, "auto"])
def test_streams_hide_completely_on_a_fast_link(method):
    assert math.isclose(simulate(scenario(mbps=100_000), method).efficiency, 1, rel_tol=1e-9)


def test_on_a_slow_link_methods_rank_as_published():
    asked = scenario(mbps=10_000, latency_ms=0.1, codec="fp32")
    steps = [simulate(asked, method).step_s for method in ("ssgd", "local-sgd", "enp", "dreamddp")]
    assert steps == sorted(steps, reverse=True) and len(set(steps)) == 4


@pytest.mark.parametrize("method", METHODS)
def test_the_slowest_site_decides(method):
    asked = scenario()
    fast, slow = Link.of(mbps=1000, latency_ms=2), Link.of(mbps=200, latency_ms=2)
    mixed, alone = asked.over([fast, slow, fast]), asked.over([slow])
    listed = replace(asked, profile=replace(asked.profile, links=(("a", fast), ("b", slow))))
    assert simulate(mixed, method) == simulate(alone, method) == simulate(listed, method)


def test_bytes_are_what_an_all_reduce_sends():
    numel = read_shape("gpt2").numel
    for sites in (2, 4, 1000):
        each = 2 * (sites - 1) / sites * 2 * numel
        assert math.isclose(simulate(scenario(sites=sites), "ssgd").wan_bytes_per_step, each)
        for method in ("local-sgd", "enp", "stream-bf16"):
            assert math.isclose(simulate(scenario(sites=sites), method).wan_bytes_per_step, each / 8, rel_tol=1e-6)


def test_ssgd_waits_for_what_does_not_fit_into_backward():
    # Ready after 1, 2 and 3 s of backward; 10^6 bytes take 2 s each: sent from 1 to 3, 3 to 5 and 5 to 7.
    profile = Profile(
        units=tuple(UnitProfile(name=n, numel=500_000, forward_s=1.0, backward_s=1.0) for n in ("c", "b", "a"))
    )
    outcome = simulate(over(profile, 4, 0.0, 8, sites=2), "ssgd")
    assert math.isclose(outcome.step_s, 3 + 7) and math.isclose(outcome.exposed_s, 4)


def test_ssgd_merges_small_units_where_latency_rules():
    profile = Profile(
        units=tuple(UnitProfile(name=f"u{n}", numel=10, forward_s=0.001, backward_s=0.001) for n in range(50))
    )
    # One by one, 50 rounds of 10 ms would take 0.5 s.
    assert simulate(over(profile, 1000, 10.0, 8, sites=2), "ssgd").exposed_s < 0.03


def test_a_period_left_open_is_found_for_each_method():
    found = {method: simulate(scenario(mbps=1000, latency_ms=1, period="auto"), method) for method in PERIODIC}
    assert found["stream-bf16"].period < found["stream-fp32"].period
    assert all(outcome.efficiency > 0.9 for outcome in found.values())


def test_carriers_share_the_link_and_the_bytes():
    # Two ranks that each carry half are as one that carries all.
    whole = scenario()
    half = replace(whole.profile, units=tuple(replace(u, numel=u.numel // 2) for u in whole.profile.units))
    pair = replace(whole, profile=half, carriers=2).over([Link.of(mbps=1000, latency_ms=20)])
    for method in METHODS:
        one, two = simulate(whole, method), simulate(pair, method)
        assert math.isclose(one.step_s, two.step_s, rel_tol=1e-3)
        assert math.isclose(one.wan_bytes_per_step, two.wan_bytes_per_step, rel_tol=1e-3)


def test_cost_adds_gpus_and_egress():
    asked = scenario(gpus_per_site=8, tokens_per_step=1_000_000)
    assert simulate(asked, "ssgd").dollars_per_million_tokens is None
    outcome = simulate(replace(asked, gpu_hour=3.6, gb=0.1), "ssgd")
    gpus, egress = 4 * 8 * outcome.step_s * 3.6 / 3600, 4 * outcome.wan_bytes_per_step * 0.1 / 1e9
    assert math.isclose(outcome.dollars_per_million_tokens, gpus + egress)
    assert math.isclose(simulate(replace(asked, gb=0.1), "ssgd").dollars_per_million_tokens, egress)
    assert math.isclose(outcome.tokens_per_s, 1_000_000 / outcome.step_s)


def test_transfer_times_without_sizes_are_enough():
    profile = Profile(
        units=tuple(UnitProfile(name=n, numel=0, backward_s=0.1, transfer_s=t) for n, t in (("b", 0.3), ("a", 0.2)))
    )
    asked = Scenario(profile=profile, sites=8, period=2, codec="fp32")
    assert math.isclose(simulate(asked, "local-sgd").exposed_s, 0.25)
    assert simulate(asked, "local-sgd").wan_bytes_per_step is None
    # Balanced by time, each step sends one unit's 0.1 s behind 0.2 s; all at once would need two steps.
    four = Profile(units=tuple(UnitProfile(name=n, numel=0, backward_s=0.05, transfer_s=0.1) for n in "dcba"))
    stream = simulate(Scenario(profile=four, sites=8, period=4), "stream-fp32")
    assert stream.delay == 1 and math.isclose(stream.efficiency, 1, rel_tol=1e-9)
    with pytest.raises(ValueError, match="no sizes"):
        asked.over([Link.of(mbps=1, latency_ms=1)])


def test_a_profile_without_link_and_transfers_says_what_to_state():
    profile = Profile(units=(UnitProfile(name="a", numel=5, backward_s=1.0),))
    with pytest.raises(ValueError, match="state bandwidth and latency"):
        simulate(Scenario(profile=profile, sites=2), "ssgd")


def test_a_thousand_sites_of_70b_take_seconds():
    asked = scenario("llama-2-70b", mbps=100, sites=1000)
    links = tuple((f"site{site}", Link.of(mbps=100 + site, latency_ms=20)) for site in range(1000))
    asked = replace(asked, profile=replace(asked.profile, links=links))
    began = time.process_time()
    for method in METHODS:
        simulate(asked, method)
    assert time.process_time() - began < 5


def test_methods_come_in_the_order_of_the_table():
    assert expand(["stream", "none"]) == ("none", *STREAMS)
    with pytest.raises(ValueError, match="'ddp' is unknown; there are stream, none, ssgd"):
        expand(["none", "ddp"])


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"sites": 1}, "sites"),
        ({"period": 0}, "period"),
        ({"period": 257}, "period"),
        ({"period": math.nan}, "period"),
        ({"codec": "int3"}, "codec"),
        ({"gpu_hour": -1.0}, "gpu-hour"),
        ({"gb": math.nan}, "gb"),
        ({"gpus_per_site": 0}, "gpus-per-site"),
    ],
)
def test_wrong_scenarios_are_refused(wrong, name):
    with pytest.raises(ValueError, match=f"^{name} is "):
        scenario(**wrong)
