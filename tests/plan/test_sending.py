# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from geo_accel.config.parts import Overlap
from geo_accel.plan.cost import bytes_per_value
from geo_accel.plan.members import Members
from geo_accel.plan.request import BUDGET, Request
from geo_accel.plan.sending import Sending
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, UnitProfile

VALUES = 8_000_000


def link(up, down=None):
    return Link(latency_s=1e-3, seconds_per_byte=8e-6 / up, down_seconds_per_byte=8e-6 / down if down else None)


def profile(links, step_s=0.3):
    return Profile(
        units=(UnitProfile(name="a", numel=VALUES, backward_s=step_s / 2),),
        step_s=step_s,
        after_s=0.01,
        links=tuple((f"site{i}", one) for i, one in enumerate(links)),
    )


def averaging(links, codec="int8", period=8, ranks=(), names=(), **fixed):
    request = Request(mode="stream", codec=codec, **fixed)
    members = Members(len(links), names=names, ranks=ranks)
    return Sending(request=request, values=VALUES, members=members).averaging(codec, period, profile(links))


def test_two_sites_swap():
    assert averaging([link(100)] * 2).exchange == "direct"


def test_from_three_sites_on_dense_payloads_go_in_two_shots():
    assert averaging([link(100)] * 4).exchange == "two-shot"


def test_a_site_with_a_far_better_link_is_the_hub():
    """Everyone else uploads one payload, slowly; in two shots the slow ones would upload 2 * 3/4 of it."""
    links = [link(10, 1000), link(10_000), link(10, 1000), link(10, 1000)]
    assert (averaging(links).exchange, averaging(links).hub) == ("hub", 1)


def test_latency_that_rules_makes_one_message_of_two():
    far = [Link(latency_s=2.0, seconds_per_byte=1e-9)] * 3
    assert averaging(far).exchange == "direct"


def test_what_is_fixed_stays_fixed():
    rule = averaging(
        [link(100)] * 3,
        codec="topk",
        exchange="hub",
        ratio=0.05,
        residual="weights",
        overlap=Overlap(threshold=1, gain=1.5),
    )
    assert (rule.exchange, rule.kept, rule.residual) == ("hub", (205,) * 3, "weights")
    assert rule.overlap == Overlap(threshold=1, gain=1.5)


def test_slow_uplinks_alone_get_ratios_by_bandwidth():
    """What the fast sites send meanwhile is free where nobody's downlink is slow."""
    links = [link(100, 1000), link(50, 1000), link(20, 1000), link(100, 1000)]
    rule = averaging(links, codec="topk", period=4)
    assert rule.kept[2] == min(rule.kept) < rule.kept[1] < rule.kept[0] <= rule.kept[3] + 1
    uploads = [bytes_per_value(rule, site) / up for site, up in enumerate((100, 50, 20, 100))]
    others = uploads if rule.exchange == "direct" else [one for site, one in enumerate(uploads) if site != rule.hub]
    assert max(others) / min(others) <= 1.1


def test_slow_links_in_both_directions_get_one_ratio_for_all():
    """The slow site's downlink would have to carry what the fast ones say."""
    rule = averaging([link(100), link(50), link(20), link(100)], codec="topk", period=4)
    assert len(set(rule.kept)) == 1


@pytest.mark.parametrize("mbps", [2, 20, 200])
def test_the_common_ratio_fills_the_window_and_no_more(mbps):
    links = [link(mbps)] * 2
    rule = averaging(links, codec="topk", period=4)
    sending = Sending(request=Request(mode="stream", codec="topk"), values=VALUES, members=Members(2))
    busy = sending.cost(rule, profile(links)).seconds(VALUES)
    window = 4 * 0.3 * (1 + BUDGET["stream"])
    assert rule.kept == (4, 4) or busy <= window
    assert rule.kept == (4096, 4096) or busy > window / 2


def test_links_are_found_by_the_names_of_their_sites():
    """A profile may list sites in another order, and some that are no members any more."""
    links = [link(10, 1000), link(10, 1000), link(10_000), link(10, 1000)]
    mine = Members(3, names=("site2", "site0", "site3"))
    request = Request(mode="stream", codec="int8", exchange="hub")
    rule = Sending(request=request, values=VALUES, members=mine).averaging("int8", 8, profile(links))
    assert rule.hub == 0
    assert averaging(links, exchange="hub").hub == averaging(links, exchange="hub", names=tuple("abcd")).hub == 2


def test_coefficients_by_data_and_by_ratio():
    links = [link(100, 1000), link(20, 1000)]
    assert averaging(links, coefficients="data", ranks=(3, 1)).coefficients == (0.75, 0.25)
    assert averaging(links, ranks=(3, 1)).coefficients == ()
    blend = averaging(links, codec="topk", period=4, coefficients="blend", ranks=(1, 1))
    assert blend.kept[0] > blend.kept[1] and blend.coefficients[0] > 0.5


def rounds(mbps, period=8, values=VALUES, mode="stream", latency_s=1e-3):
    links = [Link(latency_s=latency_s, seconds_per_byte=8e-6 / mbps)] * 2
    sending = Sending(request=Request(mode=mode, codec="int8"), values=values, members=Members(2))
    cost = sending.cost(sending.averaging("int8", period, profile(links)), profile(links))
    return sending.rounds_in(period, cost), cost.seconds(values)


def test_a_fast_link_gets_few_rounds_per_period_and_a_slow_one_a_round_per_step():
    """Every round costs its messages, however little it carries."""
    assert rounds(10_000)[0] == 4
    assert rounds(10_000, period=3)[0] == 3
    assert rounds(20)[0] == 8


@pytest.mark.parametrize("mbps", [50, 100, 200, 400])
def test_rounds_leave_half_a_step_for_sites_that_are_late(mbps):
    count, whole_s = rounds(mbps, period=16)
    assert 4 <= count < 16
    assert whole_s / count <= 0.15 * 1.01
    assert count == 4 or whole_s / (count - 1) > 0.15 * 0.99


def test_rounds_need_no_more_memory_than_16_million_values():
    assert rounds(10_000_000, values=100_000_000)[0] == 7
    assert rounds(10_000_000, values=1_000_000_000)[0] == 8


def test_no_more_rounds_than_their_latencies_leave_room_for():
    count, _ = rounds(20, latency_s=0.5)
    assert count * 0.5 <= 8 * 0.3


def test_where_training_waits_for_every_round_each_step_has_one():
    assert rounds(10_000, mode="blocking")[0] == 8
