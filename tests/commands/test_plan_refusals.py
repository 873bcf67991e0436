# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What `geo-accel plan` refuses, in one line each."""

import json
import sys
from dataclasses import replace

import pytest

from tests.commands.small_gpt2 import gpt2

BAD_PROFILES = {
    "cut": (lambda text: text[:300], "not JSON, or cut off"),
    "version": (lambda text: text.replace('"version": 1', '"version": 9'), "version 9 was found"),
    "NaN": (lambda text: text.replace('"backward_s": 0.02', '"backward_s": NaN', 1), "backward_s of unit ln_f is nan"),
    "no units": (lambda _: replaced(gpt2().to_json(), units=[]), "it has no units"),
    "no link": (lambda _: gpt2(links=()).to_json(), "neither links nor transfer times: state --bandwidth-mbps"),
    "deep": (lambda _: "[" * 100_000, "not a profile"),
    "a plan": (lambda _: '{"version": 1, "mode": "stream"}', "not a profile"),
}


def replaced(text, **fields):
    return json.dumps({**json.loads(text), **fields})


@pytest.mark.parametrize("change, problem", BAD_PROFILES.values(), ids=BAD_PROFILES)
def test_a_bad_profile_gets_one_line(refused, profile, change, problem):
    profile.write_text(change(profile.read_text()))
    line = refused("--profile", profile)
    assert problem in line and "profile.json" in line


def test_a_folder_with_only_bp_gets_one_line(refused, published):
    (published / "comm.json").unlink()
    line = refused("--profile", published, "--schedule", "dreamddp")
    assert "comm.json: profile: cannot be read" in line


BAD_PLANS = {
    "cut": (lambda text: text[:200], "not JSON, or cut off"),
    "version": (lambda text: text.replace('"version": 4', '"version": 99'), "version 99 was found"),
    "codec": (lambda text: text.replace('"bf16"', '"int3"'), "codec 'int3' was found; allowed: fp32, bf16"),
    "kept": (lambda text: text.replace('"kept": []', '"kept": [0]'), "cannot say how many values each site keeps"),
    "residual": (lambda text: text.replace('"weights"', '"air"'), "residual 'air' was found; allowed: weights"),
    "outer": (lambda text: text.replace('"momentum": 0.0', '"momentum": 7'), "the outer momentum is 7; it must be"),
    "exchange": (lambda text: text.replace('"direct"', '"pigeon"'), "exchange 'pigeon' was found"),
    "forgotten unit": (lambda text: text.replace('["ln_f", "h.7', '["h.7'), "unit ln_f is not synchronised whole"),
    "unit": (lambda text: text.replace('"h.3', '"g.3'), "unit g.3 of 789760 elements; this one has no such unit"),
    "size": (lambda text: text.replace('"wte", 2097152', '"wte", 5'), "unit wte of 5 elements; this one has 2097152"),
    "a list": (lambda _: "[]", "not a plan"),
    "deep": (lambda _: "[" * 100_000, "not a plan"),
}


@pytest.mark.parametrize("change, problem", BAD_PLANS.values(), ids=BAD_PLANS)
def test_a_bad_plan_gets_one_line(refused, profile, plan, change, problem):
    text = plan.read_text()
    plan.write_text(change(text))
    assert plan.read_text() != text
    line = refused("--plan", plan, "--profile", profile)
    assert problem in line and "plan.json" in line


def test_a_profile_with_a_unit_more_is_another_model(refused, plan, tmp_path):
    other = tmp_path / "other.json"
    unit = replace(gpt2().units[0], name="adapter")
    other.write_text(gpt2(units=(*gpt2().units, unit)).to_json())
    assert "this one also has the unit adapter" in refused("--plan", plan, "--profile", other)


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ([], "give --profile PATH to make a plan, or --plan FILE"),
        (["--profile", "none.json"], "none.json: profile: cannot be read"),
        (["--plan", "none.json"], "none.json: plan: cannot be read"),
        (["--profile", "P", "--period", "0"], "--period: '0' given; allowed: a whole number from 1 on or auto"),
        (["--profile", "P", "--period", "1e3"], "--period: '1e3' given"),
        (["--profile", "P", "--sites", "1"], "--sites: '1' given; allowed: a whole number from 2 on"),
        (["--profile", "P", "--tied", "wte=nowhere"], "no unit 'nowhere'"),
        (["--profile", "P", "--tied", "wte"], "write it as in transformer.wte=lm_head"),
        (["--profile", "P", "--codec", "int3"], "--codec 'int3' is not in this version; allowed: auto, fp32, bf16"),
        (["--profile", "P", "--schedule", "best"], "--schedule 'best'"),
        (["--profile", "P", "--mode", "fast"], "--mode 'fast'"),
        (["--profile", "P", "--bandwidth-mbps", "0"], "a number above 0"),
        (["--profile", "P", "--bandwidth-mbps", "nan"], "a finite number"),
        (["--profile", "P", "--latency-ms", "-1"], "not negative"),
        (
            ["--profile", "P", "--period", "3", "--delay", "4"],
            "delay 4; in mode stream it is at least 1 and at most 3",
        ),
        (["--profile", "P", "--schedule", "full", "--delay", "1"], "mode blocking applies within the step"),
        (["--profile", "P", "--show", "--json"], "leave one of them out"),
        (["--profile", "P", "--output", "nowhere/plan.json"], "its folder does not exist"),
        (["--profile", "P", "--png", "."], "is a folder"),
        (["--profile", "D"], "the schedule stream balances elements, which this profile does not know"),
        (["--profile", "D", "--schedule", "equal", "--bandwidth-mbps", "9"], "leave --bandwidth-mbps and --latency"),
        (["--plan", "L", "--period", "3"], "--period makes a new plan and --plan reads one"),
        (["--plan", "L", "--show"], "--show needs a profile"),
        (["--plan", "L", "--latency-ms", "0"], "--latency-ms needs a profile"),
    ],
)
def test_wrong_use_gets_one_line(refused, profile, published, plan, monkeypatch, tmp_path, arguments, problem):
    monkeypatch.chdir(tmp_path)
    paths = {"P": profile, "D": published, "L": plan}
    before = sorted(tmp_path.rglob("*"))
    assert problem in refused(*(paths.get(word, word) for word in arguments))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_latency_alone_needs_a_link_that_was_measured(refused, profile):
    profile.write_text(gpt2(links=()).to_json())
    assert "state --bandwidth-mbps too" in refused("--profile", profile, "--latency-ms", 3)


def test_times_beyond_what_numbers_hold_are_refused(refused, profile):
    units = tuple(replace(unit, backward_s=sys.float_info.max) for unit in gpt2().units)
    profile.write_text(gpt2(units=units).to_json())
    line = refused("--profile", profile, "--show", "--schedule", "full", "--period", 2, "--codec", "fp32")
    assert "too large to be added up" in line
