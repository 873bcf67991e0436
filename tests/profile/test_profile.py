# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.profile.link import Link
from geo_accel.profile.profile import Handling, Profile, UnitProfile, read_profile

times = st.floats(0, 1e3)
names = st.text(min_size=1, max_size=12)
units = st.builds(
    UnitProfile,
    name=names,
    numel=st.integers(0, 10**12),
    forward_s=times,
    backward_s=st.floats(1e-9, 1e3),
    update_s=times,
    transfer_s=st.none() | times,
)
links = st.builds(Link, latency_s=times, seconds_per_byte=st.floats(1e-12, 1e3))
profiles = st.builds(
    Profile,
    units=st.lists(units, min_size=1, max_size=8, unique_by=lambda unit: unit.name).map(tuple),
    step_s=st.none() | times,
    after_s=st.none() | times,
    links=st.lists(st.tuples(names, links), max_size=4).map(tuple),
    pairs=st.lists(st.tuples(names, names, links), max_size=4).map(tuple),
    handling=st.dictionaries(
        st.sampled_from(["fp32", "bf16"]), st.builds(Handling, training_s=times, background_s=times)
    ),
    provenance=st.dictionaries(names, names | st.integers() | st.booleans()),
)


def small(**changes):
    fields = {
        "units": (
            UnitProfile(name="head", numel=40, forward_s=1.0, backward_s=2.0, update_s=0.5, transfer_s=3.0),
            UnitProfile(name="block", numel=20, forward_s=1.0, backward_s=2.0, update_s=0.5),
            UnitProfile(name="wte", numel=40, forward_s=1.0, backward_s=2.0, update_s=0.5, transfer_s=4.0),
        ),
        "links": (
            ("here", Link(latency_s=0.1, seconds_per_byte=1e-6)),
            ("there", Link(latency_s=0.2, seconds_per_byte=1e-7)),
        ),
        "handling": {"bf16": Handling(training_s=1e-9, background_s=2e-9)},
    }
    return Profile(**(fields | changes))


@given(profiles)
def test_json_round_trip_keeps_everything(profile):
    assert Profile.from_json(profile.to_json()) == profile


@given(profiles)
def test_a_step_takes_no_less_than_its_backward_and_its_end(profile):
    assert profile.compute_s >= (profile.backward_s + profile.ending_s) * (1 - 1e-12)


def test_a_step_is_the_sum_of_its_parts_or_what_was_measured():
    assert (small().compute_s, small().backward_s, small().ending_s) == (10.5, 6.0, 1.5)
    measured = small(step_s=20.0, after_s=3.0)
    assert (measured.compute_s, measured.ending_s) == (20.0, 3.0)
    assert small(step_s=1.0).compute_s == 7.5  # a step cannot be shorter than what was seen in it


def test_the_link_is_the_slowest_of_each():
    assert small().link == Link(latency_s=0.2, seconds_per_byte=1e-6)
    assert small(links=()).link is None


def test_another_link_takes_the_place_of_all_that_was_measured():
    link = Link.of(mbps=8, latency_ms=5)
    assert link == Link(latency_s=0.005, seconds_per_byte=1e-6)
    other = small(pairs=(("here", "there", link),)).with_link(link)
    assert other.links == (("here", link), ("there", link)) and other.pairs == ()
    assert [unit.transfer_s for unit in other.units] == [None] * 3
    assert small(links=()).with_link(link).link == link


@pytest.mark.parametrize("ends", [("head", "wte"), ("wte", "head")])
def test_a_tied_weight_is_sent_once_when_both_are_ready(ends):
    tied = small().tied(*ends)
    assert [unit.numel for unit in tied.units] == [0, 20, 40]
    assert [unit.transfer_s for unit in tied.units] == [0.0, None, 4.0]
    assert tied.compute_s == small().compute_s


@pytest.mark.parametrize(
    "ends, problem", [(("head", "wtf"), "no unit 'wtf'; it has head, block, wte"), (("wte", "wte"), "to itself")]
)
def test_a_tie_to_nothing_is_refused(ends, problem):
    with pytest.raises(ValueError, match=f"tied: .*{problem}"):
        small().tied(*ends)


NOT_A_TIME = [math.nan, math.inf, -1.0, "1", True]


@pytest.mark.parametrize("value", NOT_A_TIME)
@pytest.mark.parametrize("key", ["numel", "forward_s", "backward_s", "update_s", "transfer_s"])
def test_a_unit_s_figures_are_finite_numbers(key, value):
    with pytest.raises(ValueError, match=f"profile: {key} of unit head is .*(finite|whole) number"):
        small(units=(replace(small().units[0], **{key: value}),))


@pytest.mark.parametrize("value", NOT_A_TIME)
def test_all_other_figures_are_finite_numbers(value):
    good = Link(latency_s=0.1, seconds_per_byte=1e-6)
    for key, changes in {
        "step_s": {"step_s": value},
        "after_s": {"after_s": value},
        "latency_s of here": {"links": (("here", replace(good, latency_s=value)),)},
        "seconds_per_byte of here": {"pairs": (("here", "there", replace(good, seconds_per_byte=value)),)},
        "handling.bf16.training_s": {"handling": {"bf16": Handling(training_s=value)}},
        "handling.fp32.background_s": {"handling": {"fp32": Handling(background_s=value)}},
    }.items():
        with pytest.raises(ValueError, match=f"profile: {key} is .*finite number"):
            small(**changes)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"units": ()}, "no units"),
        ({"units": small().units[:1] * 2}, "unit head is listed twice"),
        ({"units": (UnitProfile(name="a", numel=1),)}, "all of its times are 0"),
    ],
)
def test_what_says_nothing_is_refused(changes, problem):
    with pytest.raises(ValueError, match=f"profile: .*{problem}"):
        small(**changes)


def without(key):
    fields = json.loads(small().to_json())
    del fields[key]
    return json.dumps(fields)


def changed(change):
    fields = json.loads(small().to_json())
    change(fields)
    return json.dumps(fields)


BAD_TEXTS = {
    "empty": ("", "not JSON, or cut off"),
    "cut": (small().to_json()[:200], "not JSON, or cut off"),
    "a list": ("[1]", "not a profile"),
    "a number": ("3", "not a profile"),
    "no version": (without("version"), "not a profile"),
    "no units": (without("units"), "not a profile"),
    "old": (changed(lambda fields: fields.update(version=0)), "version 0 was found; this geo_accel reads 1"),
    "new": (changed(lambda fields: fields.update(version=99)), "version 99 was found"),
    "empty units": (changed(lambda fields: fields.update(units=[])), "it has no units"),
    "odd key": (changed(lambda fields: fields.update(colour="red")), "not a profile"),
    "odd unit": (changed(lambda fields: fields["units"][0].update(colour="red")), "not a profile"),
    "nameless unit": (changed(lambda fields: fields["units"][0].pop("name")), "not a profile"),
    "NaN": (changed(lambda fields: fields["units"][1].update(backward_s=math.nan)), "backward_s of unit block is nan"),
    "text": (changed(lambda fields: fields["links"][0].update(latency_s="1 ms")), "latency_s of here is '1 ms'"),
    "link": (changed(lambda fields: fields.update(links=["here"])), "not a profile"),
}


@pytest.mark.parametrize("text, problem", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_file_that_is_no_profile_gets_one_line_with_its_name(tmp_path, text, problem):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"p.json: profile: .*{problem}") as refused:
        read_profile(path)
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: profile: cannot be read"):
        read_profile(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bytes\.json: profile: not text"):
        read_profile(tmp_path / "bytes.json")


def test_a_profile_is_read_from_its_file(tmp_path):
    (tmp_path / "p.json").write_text(small().to_json())
    assert read_profile(tmp_path / "p.json") == read_profile(str(tmp_path / "p.json")) == small()


def published(folder, backward='{"wte": 1.0, "drop": NaN, "head": 2.0}', comm='{"wte": 3, "drop": NaN, "head": 4.0}'):
    for name, text in (("bp.json", backward), ("comm.json", comm)):
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_the_published_format_is_read_in_backward_order(tmp_path):
    profile = read_profile(published(tmp_path))
    assert [(unit.name, unit.backward_s, unit.transfer_s) for unit in profile.units] == [
        ("head", 2.0, 4.0),
        ("drop", 0.0, 0.0),  # without parameters
        ("wte", 1.0, 3.0),
    ]
    assert profile.compute_s == 3.0 and profile.numel == 0 and profile.link is None


def test_a_frozen_module_computes_and_is_never_sent(tmp_path):
    backward = '{"embed": 8.0, "q.base": 0.5, "q.lora": 1.0, "v.base": NaN, "v.lora": 0.25, "head": 2.0}'
    profile = read_profile(published(tmp_path, backward, '{"v.lora": 3.0, "q.lora": 4.0}'))
    assert [(unit.name, unit.backward_s, unit.transfer_s) for unit in profile.units] == [
        ("v.lora", 2.25, 3.0),  # its gradient is ready once the head's is through
        ("q.lora", 9.5, 4.0),
    ]
    assert profile.compute_s == profile.backward_s == 11.75


@pytest.mark.parametrize(
    "files, problem",
    [
        ({"comm": None}, "comm.json: profile: cannot be read"),
        ({"backward": None}, "bp.json: profile: cannot be read"),
        ({"comm": '{"wte": 1'}, "comm.json: profile: not JSON, or cut off"),
        ({"backward": "[1, 2]"}, "bp.json: profile: expected seconds by module"),
        ({"backward": '{"wte": 1.0}'}, "module drop is in comm.json but not in bp.json"),
        ({"comm": "{}"}, "it has no units"),
        ({"backward": '{"wte": 1, "drop": 0, "head": 1, "base": -9}'}, "backward_s of frozen module base is -9.0"),
        ({"comm": '{"wte": "1", "drop": 0, "head": 0}'}, "time of module wte is '1', not a number"),
        ({"comm": '{"wte": -1, "drop": 0, "head": 0}'}, "transfer_s of unit wte is -1.0"),
        ({"comm": '{"wte": Infinity, "drop": 0, "head": 0}'}, "transfer_s of unit wte is inf"),
        ({"backward": "{}", "comm": "{}"}, "it has no units"),
        ({"backward": '{"a": NaN}', "comm": '{"a": 1}'}, "all of its times are 0"),
    ],
)
def test_a_folder_that_is_no_profile_gets_one_line_with_its_name(tmp_path, files, problem):
    with pytest.raises(ValueError, match=problem) as refused:
        read_profile(published(tmp_path, **files))
    assert str(tmp_path) in str(refused.value) and len(str(refused.value).splitlines()) == 1
