# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from geo_accel.plan.partition import stream
from geo_accel.plan.plan import Piece, Plan

UNITS = (("head", 10), ("block", 100))


def plan(**changes):
    fields = {
        "mode": "stream",
        "schedule": "stream",
        "period": 3,
        "delay": 1,
        "codec": "bf16",
        "exchange": "direct",
        "units": UNITS,
        "starts": stream([10, 100], 3),
    }
    return Plan(**(fields | changes))


def test_json_round_trip_keeps_plan_and_fingerprint():
    assert Plan.from_json(plan().to_json()) == plan()
    assert Plan.from_json(plan().to_json()).fingerprint == plan().fingerprint


def test_fingerprint_sees_every_change():
    assert plan().fingerprint != plan(delay=2).fingerprint


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "not a plan"),
        ("[1]", "not a plan"),
        ('{"version": 1}', "not a plan"),
        ('{"version": 99}', "version 99"),
        (json.dumps({**json.loads(plan().to_json()), "colour": "red"}), "not a plan"),
    ],
)
def test_what_is_no_plan_is_refused(text, problem):
    with pytest.raises(ValueError, match=f"plan: .*{problem}"):
        Plan.from_json(text)


def test_a_plan_that_forgets_a_unit_is_refused():
    with pytest.raises(ValueError, match="block is not synchronised whole"):
        plan(starts=((Piece(0),), (), ()))


def test_a_plan_that_sends_half_a_unit_is_refused():
    with pytest.raises(ValueError, match="block is not synchronised whole"):
        plan(starts=((Piece(0),), (Piece(1, 0, 2),), ()))


def test_a_unit_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no Piece"):
        plan(starts=((Piece(0), Piece(1)), (Piece(2),), ()))


def test_a_second_round_in_flight_is_refused():
    with pytest.raises(ValueError, match="delay 4 exceeds the period 3"):
        plan(delay=4)
