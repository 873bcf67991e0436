# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from geo_accel.config.parts import Outer, Overlap
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.members import Members
from geo_accel.plan.partition import stream
from geo_accel.plan.plan import Piece, Plan, read_plan

UNITS = (("head", 10), ("block", 100))


def plan(**changes):
    fields = {
        "mode": "stream",
        "schedule": "stream",
        "period": 3,
        "delay": 1,
        "averaging": Averaging(codec="bf16"),
        "units": UNITS,
        "rounds": tuple((members,) if members else () for members in stream([10, 100], 3)),
    }
    return Plan(**(fields | changes))


RICH = Averaging(
    codec="topk",
    exchange="hub",
    hub=1,
    kept=(41, 400),
    residual="buffer",
    overlap=Overlap(threshold=1, gain=2.0),
    coefficients=(0.25, 0.75),
)


def named(**changes):
    """The JSON of a plan for the sites oslo and paris, changed."""
    return json.dumps(json.loads(plan(sites=("oslo", "paris"), averaging=RICH).to_json()) | changes)


def test_json_round_trip_keeps_plan_and_fingerprint():
    assert Plan.from_json(plan().to_json()) == plan()
    for sites in ((), ("oslo", "paris")):
        rich = plan(averaging=RICH, outer=Outer(lr=0.9, momentum=0.3), sites=sites, generation=3)
        assert Plan.from_json(rich.to_json()) == rich
    assert Plan.from_json(plan().to_json()).fingerprint == plan().fingerprint


def test_fingerprint_sees_every_change():
    assert plan().fingerprint != plan(delay=2).fingerprint
    assert plan().fingerprint != plan(averaging=Averaging(codec="int8")).fingerprint
    assert plan().fingerprint != plan(outer=Outer(lr=0.9)).fingerprint
    assert plan().fingerprint != plan(sites=("oslo", "paris")).fingerprint != plan(sites=("paris", "oslo")).fingerprint


def test_what_is_of_a_site_is_said_by_its_name():
    said = json.loads(named())
    assert said["kept"] == {"oslo": 41, "paris": 400} and said["hub"] == "paris"
    assert said["coefficients"] == {"oslo": 0.25, "paris": 0.75}
    assert json.loads(plan(sites=("oslo", "paris")).to_json())["hub"] is None
    turned = Plan.from_json(named(kept={"paris": 400, "oslo": 41}))
    assert turned.averaging.kept == (41, 400)


def test_a_plan_without_names_goes_by_the_order_of_the_sites():
    ours = Members(2, names=("oslo", "paris"), generation=2)
    made = plan(averaging=RICH).for_members(ours)
    assert (made.sites, made.generation, made.averaging) == (("oslo", "paris"), 2, RICH)
    assert plan(averaging=RICH).for_members(Members(2)) == plan(averaging=RICH)


def test_a_plan_of_the_version_before_has_no_names():
    fields = json.loads(plan(averaging=RICH).to_json()) | {"version": 3}
    del fields["sites"], fields["generation"]
    assert Plan.from_json(json.dumps(fields)) == plan(averaging=RICH)


def test_a_plan_that_names_its_sites_goes_by_their_names():
    turned = Plan.from_json(named()).for_members(Members(2, names=("paris", "oslo")))
    assert (turned.averaging.kept, turned.averaging.hub, turned.averaging.coefficients) == ((400, 41), 0, (0.75, 0.25))
    assert turned.for_members(Members(2, names=("oslo", "paris"))) == Plan.from_json(named())


def test_a_plan_for_other_sites_is_refused():
    for members, here in [
        (Members(2, names=("oslo", "rome")), "oslo, rome"),
        (Members(3, names=("oslo", "paris", "rome")), "oslo, paris, rome"),
        (Members(3), "3 sites"),
    ]:
        for made in (plan(sites=("oslo", "paris")), Plan.from_json(named())):
            with pytest.raises(ValueError, match=f"plan: it is for the sites oslo, paris; here are {here}. Make one"):
                made.for_members(members)
    with pytest.raises(ValueError, match="kept has 2 numbers, but there are 3 sites"):
        plan(averaging=RICH).for_members(Members(3))


def test_ratios_and_coefficients_are_for_all_sites():
    with pytest.raises(ValueError, match="kept has 2 numbers, but there are 3 sites"):
        Averaging(codec="topk", kept=(41, 41)).require_sites(3)
    with pytest.raises(ValueError, match="coefficients has 2 numbers"):
        Averaging(coefficients=(0.25, 0.75)).require_sites(3)
    with pytest.raises(ValueError, match="hub is site 3"):
        Averaging(exchange="hub", hub=3).require_sites(3)
    Averaging(codec="topk", kept=(41, 41), exchange="hub", hub=1).require_sites(2)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "not JSON, or cut off"),
        (plan().to_json()[:200], "not JSON, or cut off"),
        ("[1]", "not a plan"),
        ('{"version": 3}', "not a plan"),
        ('{"version": "3"}', "version '3'"),
        (plan().to_json().replace('"block[', '"blick['), "there is no unit 'blick"),
        (plan().to_json().replace("[14:33/50]", "[33:14/50]"), "no stretch of a unit"),
        (json.dumps({**json.loads(plan().to_json()), "codec": "int3"}), "codec 'int3'"),
        (json.dumps({**json.loads(plan().to_json()), "exchange": "post"}), "exchange 'post'"),
        (json.dumps({**json.loads(plan().to_json()), "kept": [5, 5]}), "cannot say how many values"),
        (json.dumps({**json.loads(plan().to_json()), "codec": "topk"}), "must say how many values"),
        (json.dumps({**json.loads(plan().to_json()), "codec": "topk", "kept": [0, 9]}), "kept is .0, 9."),
        (json.dumps({**json.loads(plan().to_json()), "codec": "topk", "kept": [9], "exchange": "two-shot"}), "dense"),
        (json.dumps({**json.loads(plan().to_json()), "residual": "pocket"}), "residual 'pocket'"),
        (json.dumps({**json.loads(plan().to_json()), "gain": 0.5}), "gain is 0.5"),
        (json.dumps({**json.loads(plan().to_json()), "hub": -1}), "hub is -1"),
        (json.dumps({**json.loads(plan().to_json()), "coefficients": [0.5, 0.6]}), "add up to 1"),
        (json.dumps({**json.loads(plan().to_json()), "outer": {"lr": 0, "momentum": 0}}), "outer lr is 0"),
        (json.dumps({**json.loads(plan().to_json()), "outer": {"lr": 1, "momentum": 1}}), "momentum is 1"),
        (json.dumps({**json.loads(plan().to_json()), "mode": "sideways"}), "mode 'sideways'"),
        (json.dumps({**json.loads(plan().to_json()), "period": 5}), "3 steps listed for a period of 5"),
        ('{"version": 99}', "version 99"),
        (json.dumps({**json.loads(plan().to_json()), "colour": "red"}), "not a plan"),
        (named(kept={"oslo": 41, "rome": 400}), "kept names oslo, rome; its sites are oslo, paris"),
        (named(kept=[41, 400]), r"kept is \[41, 400\]; where sites are named"),
        (named(coefficients={"oslo": 1.0}), "coefficients names oslo; its sites are"),
        (named(hub="rome"), "hub is 'rome'; its sites are oslo, paris"),
        (named(hub=1), "hub is 1; its sites are oslo, paris"),
        (named(sites=["oslo", "oslo"]), "kept names oslo, paris; its sites are oslo, oslo"),
        (json.dumps({**json.loads(plan().to_json()), "sites": ["oslo", "oslo"]}), "kept is .*where sites are named"),
        (json.dumps({**json.loads(plan().to_json()), "sites": "oslo"}), "sites are 'oslo'"),
        (json.dumps({**json.loads(named()), "generation": 0}), "generation is 0"),
    ],
)
def test_what_is_no_plan_is_refused(text, problem):
    with pytest.raises(ValueError, match=f"plan: .*{problem}"):
        Plan.from_json(text)


def test_a_plan_that_forgets_a_unit_is_refused():
    with pytest.raises(ValueError, match="block is not synchronised whole"):
        plan(rounds=(((Piece(0),),), (), ()))


def test_a_plan_that_sends_half_a_unit_is_refused():
    with pytest.raises(ValueError, match="block is not synchronised whole"):
        plan(rounds=(((Piece(0),),), ((Piece(1, 0, 2),),), ()))


def test_a_unit_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no Piece"):
        plan(rounds=(((Piece(0), Piece(1)),), ((Piece(2),),), ()))


def test_an_empty_round_is_refused():
    with pytest.raises(ValueError, match="a round without units"):
        plan(rounds=(((Piece(0), Piece(1)),), ((),), ()))


@pytest.mark.parametrize("mode, delay, problem", [("stream", 4, "at most 3"), ("stream", 0, "at least 1")])
def test_a_delay_that_cannot_be_is_refused(mode, delay, problem):
    with pytest.raises(ValueError, match=problem):
        plan(mode=mode, delay=delay)


@pytest.mark.parametrize("mode", ["backward", "blocking"])
def test_what_is_applied_within_its_step_has_no_delay(mode):
    with pytest.raises(ValueError, match="use 0"):
        plan(mode=mode)
    assert plan(mode=mode, delay=0).delay == 0


def test_a_unit_may_be_sent_again_only_after_it_was_applied():
    """Bubble filling repeats units; two transfers of one unit at once would count its progress twice."""
    both = ((Piece(0), Piece(1)),)
    assert plan(rounds=(both, both, both)).values_per_period == 330
    with pytest.raises(ValueError, match="head starts again 1 steps after its last start"):
        plan(delay=2, rounds=(both, both, ()))
    with pytest.raises(ValueError, match="head starts again 1 steps"):
        plan(delay=2, rounds=(((Piece(0), Piece(1)),), (), ((Piece(0),),)))


def test_a_plan_is_for_one_model():
    plan().require_units(UNITS)
    for units, problem in [
        ((("head", 10),), "no such unit"),
        ((("head", 10), ("block", 99)), "has 99 elements"),
        ((*UNITS, ("tail", 1)), "also has the unit tail"),
        (UNITS[::-1], "another order"),
    ]:
        with pytest.raises(ValueError, match=f"for another model: .*{problem}"):
            plan().require_units(units)


def test_people_can_read_a_plan():
    text = plan(rounds=(((Piece(0), Piece(1, 0, 4), Piece(1, 1, 4)),), ((Piece(1, 2, 4), Piece(1, 3, 4)),), ()))
    assert '[["head", "block[0:2/4]"]]' in text.to_json() and '[["block[2:4/4]"]]' in text.to_json()


def test_reading_names_the_file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(plan().to_json())
    assert read_plan(path) == plan()
    path.write_text(plan().to_json()[:-40])
    for name, problem in [("plan.json", "cut off"), ("missing.json", "cannot be read")]:
        with pytest.raises(ValueError, match=f"{name}: plan: .*{problem}"):
            read_plan(tmp_path / name)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"plan\.json: plan: not text"):
        read_plan(path)
