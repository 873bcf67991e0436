# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import pytest

from geo_accel.config.parts import Outer
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.cost import Cost
from geo_accel.plan.members import Members
from geo_accel.plan.request import Request
from geo_accel.plan.review import TOLERANCE, Seen, review, seen_link, sounding
from geo_accel.plan.slowing import Steps
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, UnitProfile

# Few bits hide over all of these links, and an outer step may prefer a longer period.
REQUEST = Request(mode="stream", codec="bf16", outer=Outer())
LINK = Link.of(mbps=100, latency_ms=1)
UNITS = [("head", 3_000_000), ("block", 2_000_000), ("embedding", 3_000_000)]


def profile(mbps, step_s=0.3):
    return Profile(
        units=tuple(UnitProfile(name=n, numel=k, forward_s=0.02, backward_s=0.05) for n, k in UNITS),
        step_s=step_s,
        after_s=0.02,
        links=tuple((name, Link.of(mbps=mbps, latency_ms=1)) for name in ("a", "b")),
    )


def alike(step_s):
    return Steps(quiet=(step_s,) * 10, beside=(step_s,) * 10)


def seen(mbps, step_s=0.3, lag_s=(0.0, 0.0), swaps=5, nbytes=1_000_000):
    """What two ranks see of a link; where a rank waits for the other, its own swap takes longer."""
    taken = Link.of(mbps=mbps, latency_ms=1).seconds(1, nbytes)
    return [Seen(swaps=((nbytes, taken + lag),) * swaps, steps=alike(step_s)) for lag in lag_s]


def reviewed(now, request=None, **how):
    request = request or REQUEST
    before = profile(100)
    return review(choose_plan(request, UNITS, Members(2), before), request, before, Members(2), now, **how)


def test_a_slower_link_leads_to_a_longer_period_with_the_reason():
    plan, learnt = reviewed(seen(30))
    assert plan.reason.startswith("the link went from 100 to 30 Mbit/s: ")
    assert plan.period > choose_plan(REQUEST, UNITS, Members(2), profile(100)).period
    assert learnt.link.megabits_per_second == pytest.approx(30)
    assert plan.same_course(choose_plan(REQUEST, UNITS, Members(2), profile(30)))


def test_a_faster_link_leads_to_a_shorter_period():
    plan, _ = reviewed(seen(1000))
    assert plan.period < choose_plan(REQUEST, UNITS, Members(2), profile(100)).period


@pytest.mark.parametrize("mbps", [100, 100 * (1 + TOLERANCE) * 0.99, 100 / (1 + TOLERANCE) * 1.01])
def test_noise_changes_nothing(mbps):
    plan, learnt = reviewed(seen(mbps))
    assert plan is None and learnt == profile(100)


def test_waiting_for_the_other_site_is_not_a_slow_link():
    plan, _ = reviewed(seen(100, lag_s=(0.5, 0.0)))
    assert plan is None


def test_who_comes_when_all_has_been_sent_has_not_seen_a_fast_link():
    # Four sites that share processors: one always begins when the others' payloads are there, or nearly.
    plan, learnt = reviewed(seen(100, lag_s=(0.0, -0.06, -0.079, -0.02)))
    assert plan is None and learnt == profile(100)
    # A slower link is one even for the last to begin, and a faster one even for the first.
    assert reviewed(seen(30, lag_s=(0.0, -0.06, -0.079, -0.02)))[1].link.megabits_per_second == pytest.approx(
        43, rel=0.02
    )
    assert reviewed(seen(400, lag_s=(0.0, -0.01, -0.015)))[1].link.megabits_per_second == pytest.approx(400)


def test_transfers_too_small_to_tell_do_tell_of_a_link_that_broke_in():
    small = 70_000  # 5.6 ms at 100 Mbit/s, beside a latency of 2 ms
    planned = Link.of(mbps=100, latency_ms=2)
    assert seen_link(seen(100, nbytes=small), planned) is None
    now = seen_link(seen(20, nbytes=small), planned)
    assert now.megabits_per_second == pytest.approx(20, rel=0.05)


def test_slower_steps_leave_room_for_more():
    plan, learnt = reviewed(seen(100, step_s=0.9))
    assert "a step went from 0.300 to 0.900 s" in plan.reason
    assert plan.period < choose_plan(REQUEST, UNITS, Members(2), profile(100)).period
    assert learnt.compute_s == pytest.approx(0.9) and learnt.backward_s == pytest.approx(0.45)


def test_the_slowest_rank_s_step_counts():
    now = [replace(one, steps=alike(step_s)) for one, step_s in zip(seen(100), (0.3, 0.9), strict=True)]
    assert "to 0.900 s" in reviewed(now)[0].reason


def test_a_step_that_was_measured_beside_a_probe_is_looked_at_more_closely():
    now = seen(100, step_s=0.255)  # instead of 0.3
    assert reviewed(now) == (None, profile(100))
    assert reviewed(now, rough_step=True)[1].compute_s == pytest.approx(0.255)
    assert reviewed(seen(100, step_s=0.28), rough_step=True) == (None, profile(100))


def test_what_the_user_fixed_stays():
    fixed = Request(mode="stream", period=4, codec="fp32", delay=1)
    plan, _ = reviewed(seen(30), request=Request(mode="stream", period=4, codec="fp32"))
    assert (plan is None) or (plan.period, plan.codec) == (4, "fp32")
    assert reviewed(seen(30), request=fixed)[0] is None


def test_a_stated_link_is_believed():
    plan, learnt = reviewed(seen(30), follow_link=False)
    assert plan is None and learnt.link.megabits_per_second == pytest.approx(100)


def test_an_interval_without_transfers_says_nothing_about_the_link():
    assert seen_link([Seen(swaps=(), steps=alike(0.3))] * 2, LINK) is None
    assert reviewed(seen(30, swaps=0))[0] is None


def test_a_link_that_changed_during_the_interval_is_judged_by_its_end():
    before, after = seen(100, swaps=8), seen(30, swaps=12)
    mixed = [replace(one, swaps=one.swaps + later.swaps) for one, later in zip(before, after, strict=True)]
    assert seen_link(mixed, LINK).megabits_per_second == pytest.approx(30)


@pytest.mark.parametrize("nbytes", [1, 1000, 60_000])
def test_transfers_that_latency_rules_say_nothing_about_bandwidth(nbytes):
    assert seen_link(seen(30, nbytes=nbytes), LINK) is None


def test_the_link_seen_is_bytes_over_seconds_without_the_latency():
    link = seen_link(seen(250, swaps=3), LINK)
    assert link.megabits_per_second == pytest.approx(250)
    assert Cost(profile=profile(250), averaging=Averaging(), members=Members(2)).seconds(250_000) == pytest.approx(
        link.seconds(1, 1_000_000)
    )


SMALL = [("head", 3_000), ("block", 2_000), ("embedding", 3_000)]


def small(latency_ms=1.0, step_s=0.1):
    """A model whose rounds are a few thousand bytes, and its plan."""
    before = replace(
        profile(100, step_s),
        units=tuple(UnitProfile(name=n, numel=k, forward_s=0.002, backward_s=0.005) for n, k in SMALL),
        links=tuple((name, Link.of(mbps=100, latency_ms=latency_ms)) for name in ("a", "b")),
    )
    return choose_plan(REQUEST, SMALL, Members(2), before), before


def test_beside_small_rounds_the_link_is_sounded_for_a_hundredth_of_what_it_carries():
    plan, before = small()
    found = sounding(plan, before, Members(2))
    seconds = found.nbytes * before.link.seconds_per_byte
    assert found.times * seconds <= 0.0101 * found.every_steps * before.compute_s
    # It is seen when the line falls, whatever the rounds say, and not before.
    for mbps in (100, 20):
        link = Link.of(mbps=mbps, latency_ms=1)
        swaps = (*[(8_000, link.seconds(1, 8_000))] * 20, *[(found.nbytes, link.seconds(1, found.nbytes))] * 2)
        _, learnt = review(plan, REQUEST, before, Members(2), [Seen(swaps=swaps, steps=alike(before.compute_s))] * 2)
        assert learnt.link.megabits_per_second == pytest.approx(mbps, rel=0.02)


def test_rounds_that_tell_are_not_sounded_beside_nor_those_that_leave_no_room():
    before = profile(100)
    assert sounding(choose_plan(REQUEST, UNITS, Members(2), before), before, Members(2)) is None
    assert sounding(*small(step_s=0.02), Members(2)) is None
    assert sounding(*small(latency_ms=150, step_s=0.3), Members(2)) is None


@pytest.mark.parametrize("latency_ms", [80, 150])
def test_a_round_on_a_long_line_tells_when_its_bytes_take_half_a_latency(latency_ms):
    planned = Link.of(mbps=100, latency_ms=latency_ms)
    for mbps in (20, 100, 400):
        now = Link.of(mbps=mbps, latency_ms=latency_ms)
        swaps = ((2_000_000, now.seconds(1, 2_000_000)),) * 5
        assert seen_link([Seen(swaps=swaps, steps=alike(0.3))] * 2, planned).megabits_per_second == pytest.approx(mbps)
