# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.plan.choose import Request, choose_plan
from geo_accel.profile.link import Link

GPT2 = [("ln_f", 512), *((f"h.{i}", 789_760) for i in reversed(range(8))), ("wpe", 32_768), ("wte", 2_097_152)]


def request(**given_):
    return Request(
        **({"mode": "stream", "period": "auto", "schedule": "auto", "delay": "auto", "codec": "auto"} | given_)
    )


def link(mbps, latency_ms=0.5):
    return Link(latency_s=latency_ms * 1e-3, seconds_per_byte=8e-6 / mbps)


def test_the_demo_hides_bf16_in_five_steps():
    plan = choose_plan(request(), GPT2, sites=2, step_s=0.36, link=link(95.7))
    assert (plan.period, plan.codec, plan.delay, plan.schedule) == (5, "bf16", 1, "stream")
    assert "everything hides" in plan.reason


def test_a_fast_link_sends_losslessly_every_step():
    plan = choose_plan(request(), GPT2, sites=2, step_s=0.36, link=link(10_000))
    assert (plan.period, plan.codec) == (1, "fp32")


def test_a_slow_link_takes_a_longer_period():
    periods = [choose_plan(request(), GPT2, 2, 0.36, link(mbps)).period for mbps in (300, 100, 30, 10)]
    assert periods == sorted(periods) and periods[0] < periods[-1]


def test_latency_beyond_a_step_is_hidden_by_delay_not_by_many_rounds():
    plan = choose_plan(request(), [("a", 1000), ("b", 1000)], sites=2, step_s=0.01, link=link(1000, latency_ms=50))
    assert plan.delay > 1 and sum(bool(step) for step in plan.starts) * 0.05 <= plan.period * 0.01


def test_what_is_fixed_stays_fixed():
    plan = choose_plan(request(period=3, codec="fp32", delay=2), GPT2, 2)
    assert (plan.period, plan.codec, plan.delay) == (3, "fp32", 2)
    assert choose_plan(request(period=2), GPT2, 2, 0.36, link(100)).period == 2


def test_a_fixed_period_that_cannot_hide_says_so():
    assert "stay exposed" in choose_plan(request(period=2), GPT2, 2, 0.36, link(100)).reason


def test_blocking_waits_and_keeps_that_to_a_tenth():
    plan = choose_plan(request(mode="blocking", codec="fp32"), GPT2, 2, 0.36, link(95.7))
    transfer = link(95.7).seconds(1, 4 * sum(n for _, n in GPT2))
    assert plan.delay == 0 and transfer / plan.period <= 0.1 * 0.36
    assert plan.schedule == "full"


@given(
    st.lists(st.integers(1, 5_000_000), min_size=1, max_size=20),
    st.floats(0.01, 10),
    st.floats(5, 20_000),
    st.floats(0, 300),
    st.integers(2, 8),
)
def test_an_automatic_plan_fits_its_link(sizes, step_s, mbps, latency_ms, sites):
    units = [(f"u{i}", size) for i, size in enumerate(sizes)]
    pipe = link(mbps, latency_ms)
    plan = choose_plan(request(), units, sites, step_s, pipe)
    width = {"fp32": 4, "bf16": 2}[plan.codec]
    share = sites - 1 if plan.exchange == "direct" else 2 * (sites - 1) / sites
    rounds = sum(bool(step) for step in plan.starts)
    shots = 1 if plan.exchange == "direct" else 2
    assert pipe.seconds(shots * rounds, share * width * sum(sizes)) <= plan.period * step_s * (1 + 1e-9)
    assert 1 <= plan.delay <= plan.period


@pytest.mark.parametrize("mode", ["stream", "blocking"])
def test_nothing_is_measured_where_nothing_is_open(mode):
    assert not request(mode=mode, period=2, codec="bf16", delay=1).needs_measurement
    assert request(mode=mode, codec="bf16", delay=1).needs_measurement
