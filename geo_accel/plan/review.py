# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""While a plan runs: does what is seen still fit it, and which plan would fit better?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import median

from geo_accel.config.names import Exchange, Mode
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.cost import Cost, values_of
from geo_accel.plan.members import Members
from geo_accel.plan.plan import Plan
from geo_accel.plan.request import Request
from geo_accel.plan.slowing import Steps, values_per_round
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Handling, Profile

# A link or a step that differs by less from what the plan was made for is noise, not news.
TOLERANCE = 0.25
# The same of a step that was measured while a probe used the processors beside it: a tenth to a quarter too long.
_ROUGH_TOLERANCE = 0.1
# A transfer says something about bandwidth if it has this many bytes,
LEAST_BYTES = 64 * 1024
# and beyond the latency should take, or took, so many latencies, or where these are long: latencies waver by less.
_LATENCIES = 4
_LONG_LATENCIES, _MARGIN_S = 0.5, 0.01
# Where rounds are smaller, so much is sent beside them now and then, twice, and takes no more than this of the link.
_SOUNDING_BYTES = 256 * 1024
_SOUNDINGS = 2
_SOUNDING_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one rank saw in an interval."""

    swaps: tuple[tuple[int, float], ...]
    """Bytes sent and seconds of each swap with its peers, in order."""
    steps: Steps
    slowness: float = 1.0
    """Of its site's uplink, beside the slowest link: 1 for the slowest, 0.1 for one of ten times the bandwidth."""


def _telling_s(latency_s: float) -> float:
    """Seconds beyond the latency from which on a transfer tells of the bandwidth."""
    return min(_LATENCIES * latency_s, _LONG_LATENCIES * latency_s + _MARGIN_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sounding:
    """What is sent beside rounds that are too small to tell of the link, the same on every rank."""

    nbytes: int
    """To every peer, each time."""
    times: int
    every_steps: int
    """So seldom that it is a hundredth of what the link carries."""


def sounding(plan: Plan, profile: Profile, members: Members) -> Sounding | None:
    """None where the rounds of `plan`, made from `profile`, tell by themselves, or leave no room beside them."""
    link = profile.link
    if link is None or plan.mode != Mode.STREAM or plan.exchange == Exchange.HUB:
        return None
    cost = Cost.of(plan, profile, members)
    largest = max(values_of(pieces, plan.units) for step in plan.rounds for pieces in step)
    round_bytes = cost.nbytes(largest) / cost.messages
    telling_s = _telling_s(link.latency_s)
    if round_bytes >= LEAST_BYTES and round_bytes * link.seconds_per_byte >= telling_s:
        return None
    total = max(_SOUNDING_BYTES, 1.1 * telling_s / link.seconds_per_byte)
    seconds = total * link.seconds_per_byte
    # One to begin together, then these, and a round in the same time.
    taken = link.latency_s + _SOUNDINGS * (link.latency_s + seconds) + cost.seconds(largest)
    if taken > plan.delay * profile.compute_s:
        return None
    every = ceil(_SOUNDINGS * seconds / _SOUNDING_SHARE / profile.compute_s)
    return Sounding(nbytes=int(total / (len(members) - 1)), times=_SOUNDINGS, every_steps=every)


def seen_link(seen: Sequence[Seen], planned: Link) -> Link | None:
    """The `planned` link, changed as far as the interval's later transfers prove; None where none can tell.

    Ranks do not begin a swap together. The one that begins last takes less than the link does, since what the others
    sent is there by then, and the one that begins first takes more, since it waits. Their medians are what the link is
    between. Swaps that the latency rules say nothing about bandwidth.
    """
    swaps = [[(size * one.slowness, taken) for size, taken in one.swaps] for one in seen if one.swaps]
    bounds = []
    for same in zip(*swaps, strict=False):
        # In bytes of the slowest link: what takes longest is what all wait for.
        size = max(size for size, _ in same)
        shortest, longest = (pick(taken for _, taken in same) for pick in (min, max))
        serial = max(size * planned.seconds_per_byte, shortest - planned.latency_s)
        if size >= LEAST_BYTES and serial >= _telling_s(planned.latency_s):
            bounds.append([max(taken - planned.latency_s, 0.0) / size for taken in (shortest, longest)])
    if not bounds:
        return None
    # The later half: a link that changed during the interval is judged by what it is now.
    least, most = map(median, zip(*bounds[len(bounds) // 2 :], strict=True))
    return Link(
        latency_s=planned.latency_s, seconds_per_byte=max(min(max(planned.seconds_per_byte, least), most), 1e-12)
    )


def review(
    plan: Plan,
    request: Request,
    profile: Profile,
    members: Members,
    seen: Sequence[Seen],
    *,
    follow_link: bool = True,
    rough_step: bool = False,
    handling: Mapping[str, Handling] | None = None,
) -> tuple[Plan | None, Profile]:
    """A better plan, with its reason, or None; and the profile as it is now.

    `profile` is what `plan` was made from, `seen` what every rank has seen since. Only where link, step or handling
    have changed by more than `TOLERANCE` a new plan is made; it keeps what `request` fixes. Without `follow_link` the
    profile's link is what the user stated, and stays. With `rough_step` the profile's step was measured beside a
    probe. `handling` is what handling a value turns out to cost, where anybody knows.
    """
    # Through a hub, sites and hub take turns, and no swap shows what the slowest link carries.
    link = profile.link if follow_link and plan.exchange != Exchange.HUB else None
    now = seen_link(seen, link) if link is not None else None
    step_s = max(one.steps.step_s for one in seen)
    news = []
    if link is not None and now is not None and _differs(now.seconds_per_byte, link.seconds_per_byte):
        news.append(f"the link went from {link.megabits_per_second:.0f} to {now.megabits_per_second:.0f} Mbit/s")
        profile = profile.with_slower_links(now.seconds_per_byte / link.seconds_per_byte)
    if _differs(step_s, profile.compute_s, _ROUGH_TOLERANCE if rough_step else TOLERANCE):
        news.append(f"a step went from {profile.compute_s:.3f} to {step_s:.3f} s")
        profile = profile.with_step(step_s)
    if handling is not None:
        costs = [cost[plan.averaging.codec].training_s for cost in (profile.handling, handling)]
        if _differs(costs[1], costs[0]):
            before_ms, now_ms = (cost * values_per_round(plan) * 1e3 for cost in costs)
            news.append(f"a round takes {now_ms:.1f} ms of a step, not {before_ms:.1f}")
            profile = replace(profile, handling=handling)
    if not news:
        return None, profile
    better = choose_plan(request, plan.units, members, profile)
    if better.same_course(plan):
        return None, profile
    return replace(better, reason=f"{' and '.join(news)}: {better.reason}"), profile


def _differs(now: float, before: float, tolerance: float = TOLERANCE) -> bool:
    return not 1 / (1 + tolerance) <= now / before <= 1 + tolerance
