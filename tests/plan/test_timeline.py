# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.config.parts import Outer
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.cost import Cost
from geo_accel.plan.dreamddp import exact, exposed
from geo_accel.plan.members import Members
from geo_accel.plan.plan import Piece, Plan
from geo_accel.plan.request import Request
from geo_accel.plan.timeline import timeline
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Handling, Profile, UnitProfile

# Three units, in backward order: a step takes 1 s of forward, 1 + 1 + 1 s of backward, 0.5 s of update.
UNITS = ("c", "b", "a")
STEP_S = 4.5


def profile(*transfers, **changes):
    units = tuple(
        UnitProfile(name=name, numel=0, forward_s=1 / 3, backward_s=1.0, update_s=0.5 / 3, transfer_s=seconds)
        for name, seconds in zip(UNITS, transfers, strict=True)
    )
    return Profile(**({"units": units} | changes))


def plan(mode, *steps, delay=0, codec="fp32", exchange="direct", units=UNITS):
    """A step is a list of rounds, a round a word with a letter for each unit."""
    places = {name: place for place, name in enumerate(units)}
    return Plan(
        mode=mode,
        schedule="manual",
        period=len(steps),
        delay=delay,
        averaging=Averaging(codec=codec, exchange=exchange),
        units=tuple((name, 0) for name in units),
        rounds=tuple(tuple(tuple(Piece(places[name]) for name in word) for word in step) for step in steps),
    )


def spans(course, track):
    """Name, start and stop of what happens on a track within the steady period."""
    end = course.step_s * course.period - 1e-9
    return [
        (span.name, round(span.start, 9), round(span.stop, 9))
        for span in course.steady()
        if span.track == track and span.start < end
    ]


def test_blocking_waits_for_every_transfer_after_the_update():
    course = timeline(plan("blocking", [], ["cba"]), profile(1, 2, 3), Members(2))
    assert course.compute_s == pytest.approx(STEP_S)
    assert course.exposed_s_per_period == pytest.approx(6)
    assert course.step_s == pytest.approx(STEP_S + 3)
    assert course.efficiency == pytest.approx(4.5 / 7.5)
    assert spans(course, "transfer") == spans(course, "wait") == [("c .. a", 9, 15)]
    assert spans(course, "update") == [("update", 4, 4.5), ("update", 8.5, 9)]


def test_backward_hides_what_ends_before_backward_does():
    # c is ready at 2 and takes 2 s: done with backward, at 4.
    course = timeline(plan("backward", ["c"], ["b"], ["a"]), profile(2, 1, 0), Members(2))
    assert course.exposed_s_per_period == pytest.approx(0)
    assert course.efficiency == pytest.approx(1)
    assert spans(course, "transfer")[0] == ("c", 2, 4)


def test_backward_waits_for_what_outlasts_it_before_the_update():
    # c goes from 2 to 3.5, b waits for the link and goes until 4.5, a is ready at 4 and goes from 4.5 to 5.5.
    course = timeline(plan("backward", ["c", "b", "a"]), profile(1.5, 1, 1), Members(2))
    assert spans(course, "transfer") == [("c", 2, 3.5), ("b", 3.5, 4.5), ("a", 4.5, 5.5)]
    assert spans(course, "wait") == [("a", 4, 5.5)]
    assert spans(course, "update") == [("update", 5.5, 6)]
    assert course.step_s == pytest.approx(6)


def test_backward_starts_a_round_when_its_last_unit_is_ready():
    course = timeline(plan("backward", ["cb", "a"]), profile(0.25, 0.25, 0.25), Members(2))
    assert spans(course, "transfer") == [("c .. b", 3, 3.5), ("a", 4, 4.25)]


def test_stream_hides_behind_the_next_step():
    # Started at a boundary, done 4 s later, applied at the next boundary.
    course = timeline(plan("stream", ["c"], ["b"], ["a"], delay=1), profile(4, 4, 4), Members(2))
    assert course.exposed_s_per_period == pytest.approx(0)
    assert course.step_s == pytest.approx(STEP_S)
    assert spans(course, "transfer") == [("a", 0, 4), ("c", 4.5, 8.5), ("b", 9, 13)]


def test_stream_waits_at_the_boundary_where_a_late_round_is_due():
    # 6 s in the step of 4.5 s after the boundary at which c started: 1.5 s of waiting once a period.
    course = timeline(plan("stream", ["c"], ["b"], ["a"], delay=1), profile(6, 1, 1), Members(2))
    assert course.exposed_s_per_period == pytest.approx(1.5)
    assert course.step_s == pytest.approx(STEP_S + 0.5)
    assert spans(course, "wait") == [("transfer", 9, 10.5)]


def test_a_longer_delay_hides_what_a_short_one_exposes():
    course = timeline(plan("stream", ["c"], ["b"], ["a"], delay=2), profile(6, 1, 1), Members(2))
    assert course.exposed_s_per_period == pytest.approx(0)


def test_stream_over_a_link_that_is_too_slow_runs_at_the_link_s_pace():
    # 5 s of transfer for every step of 4.5 s; rounds queue on the serial link.
    course = timeline(plan("stream", ["c"], ["b"], ["a"], delay=1), profile(5, 5, 5), Members(2))
    assert course.step_s == pytest.approx(5)
    assert course.exposed_s_per_period == pytest.approx(1.5)


def test_the_last_period_is_steady():
    # A tenth too slow: the backlog takes periods to grow to the delay, and from then on the link sets the pace.
    course = timeline(plan("stream", ["c"], ["b"], ["a"], delay=3), profile(4.95, 4.95, 4.95), Members(2))
    assert course.step_s == pytest.approx(4.95)


def test_without_a_step_time_parts_are_summed_and_with_one_forward_is_what_remains():
    course = timeline(plan("blocking", ["cba"]), profile(0, 0, 0, step_s=6.0, after_s=1.0), Members(2))
    assert course.compute_s == pytest.approx(6)
    assert spans(course, "forward") == [("forward", 0, 2)]
    assert spans(course, "update") == [("update", 5, 6)]


def test_the_link_s_model_gives_the_times_that_were_not_measured():
    # 4 sites in two shots: 2 messages, 2 * 3/4 of 2 bytes for each of 1000 values, at 1000 bytes/s.
    link = Link(latency_s=0.25, seconds_per_byte=1e-3)
    units = (UnitProfile(name="a", numel=1000, forward_s=1.0, backward_s=1.0),)
    one = Plan(
        mode="blocking",
        schedule="full",
        period=1,
        delay=0,
        averaging=Averaging(codec="bf16", exchange="two-shot"),
        units=(("a", 1000),),
        rounds=(((Piece(0),),),),
    )
    handling = {"bf16": Handling(training_s=1e-4, background_s=2e-4)}
    fast, slow = Link(latency_s=0.0, seconds_per_byte=1e-9), link
    course = timeline(one, Profile(units=units, links=(("x", fast), ("y", slow)), handling=handling), Members(4))
    assert course.exposed_s_per_period == pytest.approx(0.5 + 3.0 + 0.2)  # the slowest site's link, and the codec
    assert course.step_s == pytest.approx(2.0 + 0.1 + 3.7)  # the codec's share of the training thread


def test_bf16_halves_measured_transfers():
    assert timeline(plan("blocking", ["cba"], codec="bf16"), profile(1, 2, 3), Members(2)).exposed_s_per_period == 3


def test_a_plan_for_another_model_is_refused():
    with pytest.raises(ValueError, match="another model: the profile has no unit z"):
        timeline(plan("blocking", ["z"], units=("z",)), profile(1, 1, 1), Members(2))


def test_a_profile_without_transfers_or_link_is_refused():
    with pytest.raises(ValueError, match="state bandwidth and latency"):
        timeline(plan("blocking", ["cba"]), profile(None, None, None), Members(2))


seconds = st.integers(0, 20).map(float)
tables = st.lists(st.tuples(st.integers(1, 10).map(float), seconds), min_size=1, max_size=12)


def course_of(table, period, **request):
    units = tuple(
        UnitProfile(name=f"u{i}", numel=0, forward_s=1.0, backward_s=backward, update_s=0.5, transfer_s=transfer)
        for i, (backward, transfer) in enumerate(table)
    )
    whole = Profile(units=units)
    made = choose_plan(
        Request(period=period, codec="fp32", **request), [(unit.name, 0) for unit in units], Members(2), whole
    )
    return made, timeline(made, whole, Members(2))


@given(tables, st.integers(1, 8))
def test_the_paper_s_objective_is_what_the_timeline_exposes(table, period):
    made, course = course_of(table, period, mode="backward", schedule="dreamddp")
    backward, transfers = zip(*table, strict=True)
    optimum = exposed(transfers, backward, exact(transfers, backward, period))
    assert course.exposed_s_per_period == pytest.approx(optimum, abs=1e-9)
    assert {piece.unit for _, piece in made.pieces()} == set(range(len(table)))


@given(tables, st.integers(1, 6), st.sampled_from([("stream", "equal"), ("backward", "equal"), ("blocking", "full")]))
def test_the_course_keeps_its_order(table, period, kind):
    mode, schedule = kind
    _, course = course_of(table, period, mode=mode, schedule=schedule, delay=min(2, period))
    by_track = {}
    for span in course.spans:
        assert span.start <= span.stop
        by_track.setdefault(span.track, []).append(span)
    # The link carries one round at a time, and the training thread does one thing at a time.
    thread = sorted(
        (s for s in course.spans if s.track in ("forward", "backward", "update", "wait")),
        key=lambda span: (span.start, span.stop),
    )
    for lane in (by_track["transfer"], by_track["step"], thread):
        assert all(a.stop <= b.start + 1e-9 for a, b in pairwise(lane))
    waited = sum(span.stop - span.start for span in by_track.get("wait", []))
    assert waited == pytest.approx(sum(course.exposed), abs=1e-6)
    assert course.ends == [span.stop for span in by_track["step"]]
    assert course.step_s * period == pytest.approx(period * course.compute_s + course.exposed_s_per_period, abs=1e-6)


def over(link, units=(("a", 1),), step_s=0.3):
    return Profile(
        units=tuple(UnitProfile(name=name, numel=numel) for name, numel in units),
        step_s=step_s,
        links=(("site0", link), ("site1", link)),
    )


def test_a_long_line_that_has_rested_takes_longer():
    # As measured with 100 Mbit/s and 150 ms of round trip: 1 MiB takes 0.24 s, after a second 0.53 to 0.88, after
    # three 0.93; 200 kB takes 0.165, 0.46 and 0.605.
    cost = Cost(profile=over(Link.of(mbps=100, latency_ms=150)), averaging=Averaging(), members=Members(2))
    for nbytes, seconds, rested in ((2**20, 0.237, (0.7, 0.93)), (200_000, 0.165, (0.46, 0.605))):
        values = nbytes / 4
        assert cost.seconds(values) == pytest.approx(seconds, rel=0.02)
        assert cost.reopening_s(values, 0.3) == 0
        for pause, taken in zip((1.0, 3.0), rested, strict=True):
            assert cost.seconds(values) + cost.reopening_s(values, pause) == pytest.approx(taken, rel=0.25)
    short = Cost(profile=over(Link.of(mbps=100, latency_ms=2)), averaging=Averaging(), members=Members(2))
    assert short.reopening_s(2**18, 10.0) == 0


def test_rounds_far_apart_are_planned_with_what_the_line_forgets_between_them():
    link = Link.of(mbps=100, latency_ms=150)
    units = [("a", 250_000), ("b", 250_000)]
    fixed = {"mode": "stream", "schedule": "full", "delay": 1, "codec": "fp32", "outer": Outer()}
    longest = []
    for period in (2, 16):
        course = timeline(
            choose_plan(Request(period=period, **fixed), units, Members(2)), over(link, units), Members(2)
        )
        longest.append(max(span.stop - span.start for span in course.steady() if span.track == "transfer"))
    assert longest[0] == pytest.approx(0.15 + 2e6 * 8e-8, rel=0.01)
    assert longest[1] == pytest.approx(longest[0] + 6 * 0.15, rel=0.05)
