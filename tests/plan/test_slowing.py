# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A plan that takes more of training than it was thought to is replaced, and one that takes less."""

from dataclasses import replace
from random import Random

import pytest

from geo_accel.config.parts import Outer
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.cost import BYTES_PER_VALUE
from geo_accel.plan.members import Members
from geo_accel.plan.request import BUDGET, Request
from geo_accel.plan.review import Seen, review
from geo_accel.plan.slowing import Slowing, Step, Steps, values_per_round
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Handling, Profile, UnitProfile

REQUEST = Request(mode="stream", codec="int2", outer=Outer())
UNITS = [("head", 2_000_000), ("block", 1_500_000), ("embedding", 2_000_000)]
STEP_S, BETWEEN = 0.15, 3e-9


def profile(cost):
    return Profile(
        units=tuple(UnitProfile(name=n, numel=k, forward_s=0.02, backward_s=0.02) for n, k in UNITS),
        step_s=STEP_S,
        after_s=0.01,
        links=tuple((name, Link.of(mbps=95, latency_ms=50)) for name in ("a", "b")),
        handling={codec: Handling(training_s=cost * size) for codec, size in BYTES_PER_VALUE.items()},
    )


def interval(plan, cost, noise, random, count=30, step_s=STEP_S):
    """What a rank sees of `count` steps under `plan`, where a value takes `cost` seconds of a step."""
    values = values_per_round(plan)
    steps = []
    for number in range(count):
        beside = bool(plan.rounds[number % plan.period])
        seconds = step_s * random.gauss(1, noise) + (cost - BETWEEN) * values * beside
        steps.append(Step(seconds=seconds, between_s=BETWEEN * values * beside, beside=beside))
    return Steps.of(steps)


def followed(thought, cost, noise, seed, intervals=20):
    """The plan after so many reviews, and the first, where a value costs `cost` and was `thought` to."""
    random, slowing = Random(seed), Slowing()
    now = profile(thought / BYTES_PER_VALUE["int2"])
    first = plan = choose_plan(REQUEST, UNITS, Members(2), now)
    for _ in range(intervals):
        count = max(30, plan.period)
        steps = [interval(plan, cost, noise, random, count) for _ in range(2)]
        handling = slowing.handling(plan, now, steps)
        better, now = review(
            plan, REQUEST, now, Members(2), [Seen(swaps=(), steps=one) for one in steps], handling=handling
        )
        plan = better or plan
    return first, plan, now


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("thought", "cost"), [(6e-9, 18e-9), (30e-9, 10e-9), (12e-9, 12e-9)])
def test_what_rounds_take_comes_to_the_budget(thought, cost, seed):
    first, plan, learnt = followed(thought, cost, 0.1, seed)
    share = cost * sum(numel for _, numel in UNITS) / plan.period / STEP_S
    assert 0.5 * BUDGET["stream"] < share < 1.4 * BUDGET["stream"]
    assert learnt.handling["int2"].training_s == pytest.approx(cost, rel=0.4)
    if cost != thought:
        assert (plan.period > first.period) == (cost > thought)


def test_the_reason_names_what_a_round_takes():
    now = profile(6e-9 / BYTES_PER_VALUE["int2"])
    plan = choose_plan(REQUEST, UNITS, Members(2), now)
    steps = [interval(plan, 18e-9, 0.001, Random(0))] * 2
    handling = Slowing().handling(plan, now, steps)
    better, _ = review(plan, REQUEST, now, Members(2), [Seen(swaps=(), steps=one) for one in steps], handling=handling)
    values = values_per_round(plan)
    assert better.reason.startswith(f"a round takes {18e-6 * values:.1f} ms of a step, not {6e-6 * values:.1f}: ")


def test_what_rounds_take_is_no_longer_step():
    """Else rounds would make steps longer, and longer steps room for more rounds."""
    now = profile(12e-9 / BYTES_PER_VALUE["int2"])
    plan = choose_plan(REQUEST, UNITS, Members(2), now)
    steps = interval(plan, 200e-9, 0.001, Random(0))
    assert steps.step_s == pytest.approx(STEP_S, rel=0.01)
    assert Steps(quiet=(0.1,), beside=(0.2,) * 9).step_s == pytest.approx(0.2)  # one says nothing


def test_noise_and_few_steps_change_little():
    now = profile(12e-9 / BYTES_PER_VALUE["int2"])
    plan = choose_plan(REQUEST, UNITS, Members(2), now)
    few = [interval(plan, 100e-9, 0.01, Random(0), count=6)] * 2
    assert Slowing().handling(plan, now, few)["int2"].training_s == pytest.approx(12e-9, rel=0.01)
    wild = [interval(plan, 12e-9, 0.5, Random(seed)) for seed in (1, 2)]
    assert Slowing().handling(plan, now, wild)["int2"].training_s == pytest.approx(12e-9, rel=0.5)


def test_what_was_too_short_to_measure_stays_and_nothing_becomes_free():
    free = profile(0.0)
    plan = choose_plan(replace(REQUEST, period=8), UNITS, Members(2), free)
    steps = [interval(plan, 18e-9, 0.001, Random(0))] * 2
    assert Slowing().handling(plan, free, steps) is None
    quicker = [Steps(quiet=(0.2,) * 9, beside=(0.1,) * 9)] * 2
    now = profile(12e-9 / BYTES_PER_VALUE["int2"])
    assert Slowing().handling(plan, now, quicker)["int2"].training_s == pytest.approx(1.2e-9)


def test_other_dense_codecs_change_by_their_bytes_and_what_cannot_be_known_by_nothing():
    now = profile(24e-9)
    plan = choose_plan(REQUEST, UNITS, Members(2), now)
    steps = [interval(plan, 18e-9, 0.001, Random(0))] * 2
    found = Slowing().handling(plan, now, steps)
    change = {codec: found[codec].training_s - cost.training_s for codec, cost in now.handling.items()}
    per_byte = [change[codec] / BYTES_PER_VALUE[codec] for codec in change]
    assert per_byte == pytest.approx([per_byte[0]] * len(per_byte)) and per_byte[0] > 0
    assert Slowing().handling(plan, replace(now, handling={}), steps) is None
    blocking = choose_plan(replace(REQUEST, mode="blocking"), UNITS, Members(2), now)
    assert Slowing().handling(blocking, now, steps) is None
