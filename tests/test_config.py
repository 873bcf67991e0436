# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import geo_accel.config
from geo_accel.config import (
    CODECS,
    ConfigError,
    GeoConfig,
    LinkConfig,
    Outer,
    Overlap,
    SyncConfig,
    differences,
    load_config,
    settings,
)
from tests.refused_config import only_problem_of, problems_of


def nested(key: str, value) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


# ---- what is allowed


def test_nothing_given_is_all_auto():
    config = load_config(None)
    assert config == GeoConfig() == load_config({}) == load_config({"geo_accel": {}})
    assert config.sync.mode == "stream"
    values = [(setting.key, setting.default) for setting in settings()]
    named = {"sync.mode": "stream", "compression.coefficients": "equal"}
    named |= dict.fromkeys(("sync.optimizer_in_backward", "resilience.allow_public_plaintext"), False)
    assert dict(values) == {key: named.get(key, "auto") for key, _ in values} and len(values) == 23


def test_every_setting_has_a_help_text_and_its_allowed_values():
    assert all(len(setting.help) > 10 and setting.allowed and setting.when and setting.kind for setting in settings())


@pytest.mark.parametrize(
    "key, value, stored",
    [
        ("sites", [4, 4], [4, 4]),
        ("sites", (1, 3), [1, 3]),
        ("sync.mode", "blocking", "blocking"),
        ("sync.period", 1, 1),
        ("sync.mode", "backward", "backward"),
        ("sync.schedule", "equal", "equal"),
        ("sync.schedule", "dreamddp", "dreamddp"),
        ("sync.delay", 3, 3),
        ("sync.outer", "mean", Outer()),
        ("sync.outer", {"type": "mean"}, Outer()),
        (
            "sync.outer",
            {"type": "nesterov", "lr": 1, "momentum": 0},
            Outer(),
        ),
        (
            "sync.outer",
            {"type": "nesterov", "lr": 1, "momentum": 0.5},
            Outer(lr=1.0, momentum=0.5),
        ),
        ("compression.overlap_weighting", True, True),
        ("compression.overlap_weighting", {"threshold": 2.0, "gain": 3}, Overlap(threshold=2, gain=3.0)),
        ("compression.codec", "bf16", "bf16"),
        ("link.interface", "eth0", "eth0"),
        ("link.bandwidth_mbps", 100, 100.0),
        ("link.latency_ms", 0, 0.0),
        ("resilience.patience_s", 0.5, 0.5),
        ("resilience.allow_public_plaintext", True, True),
    ],
)
def test_allowed_values_are_stored(key, value, stored):
    config = load_config(nested(key, value))
    for part in key.split("."):
        config = getattr(config, part)
    assert config == stored and type(config) is type(stored)


# ---- what is not allowed


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("sync.period", 0, ["got 0", ">= 1"]),
        ("sync.period", True, ["got true"]),
        ("sync.period", 2.5, ["got 2.5", "whole"]),
        ("sync.period", "8", ['got "8"', "text", "without quotes"]),
        ("sync.period", None, ["got null"]),
        ("sync.mode", "auto", ['"stream", "backward", "blocking"']),
        ("sync.mode", "blokcing", ['did you mean "blocking"?']),
        ("sync.plan", 3, ["a plan's file"]),
        ("sync.plan", "", ["a plan's file"]),
        ("sync.optimizer_in_backward", "auto", ["true or false"]),
        ("sync.delay", -1, ["got -1"]),
        ("sync.outer", "nesterov", ['"lr"', '"momentum"']),
        ("sync.outer", 0.7, ["got 0.7"]),
        ("compression.codec", "int3", ['did you mean "int', *(f'"{name}"' for name in CODECS)]),
        ("compression.codec", "fp23", ['did you mean "fp32"?']),
        ("compression.codec", ["fp32"], ["got ['fp32']"]),
        ("compression.ratio", 0, ["> 0 and <= 1"]),
        ("compression.ratio", 1.01, ["> 0 and <= 1"]),
        ("compression.overlap_weighting", "true", ["without quotes"]),
        ("compression.overlap_weighting", 1, ["true, false or"]),
        ("compression.residual", "pocket", ['"weights", "buffer", "none"']),
        ("compression.coefficients", "auto", ['"equal", "data", "blend"']),
        ("sync.exchange", "ring", ['"direct", "hub", "two-shot"']),
        ("sites", [], ["empty"]),
        ("sites", [4, 0], ["0 is not a whole number >= 1"]),
        ("sites", [4, True], ["true is not"]),
        ("sites", 2, ["such as [4, 4]"]),
        ("link.interface", "", ["interface"]),
        ("link.interface", "eth 0", ["interface"]),
        ("link.bandwidth_mbps", 0, ["> 0"]),
        ("link.bandwidth_mbps", float("inf"), ["finite"]),
        ("link.bandwidth_mbps", 10**400, ["too large"]),
        ("link.bandwidth_mbps", "1e3", ["without quotes", "1.0e-3"]),
        ("link.latency_ms", -0.1, [">= 0"]),
        ("resilience.patience_s", float("nan"), ["finite"]),
        ("resilience.patience_s", 0, ["> 0"]),
        ("resilience.allow_public_plaintext", "auto", ["true or false"]),
        ("sync", 3, ["got 3", "mode, period"]),
        ("link", None, ["got null"]),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_allowed(key, value, words):
    line = only_problem_of(nested(key, value))
    assert line.startswith(f"{key}: got ") and "allowed: " in line
    assert all(word in line for word in words), line


def test_all_problems_come_in_one_error():
    lines = problems_of(
        {
            "sync": {"perod": 4, "mode": "fast", "delay": 0},
            "compression": {"ratio": 2},
            "resilience": {"elastic": False},
        }
    )
    keys = [line.split(":")[0] for line in lines]
    assert keys == ["sync.perod", "sync.mode", "sync.delay", "compression.ratio", "resilience.elastic"]


def test_a_known_key_in_the_wrong_section_is_pointed_to_its_place():
    assert "the nearest is compression.codec;" in only_problem_of({"sync": {"codec": "fp32"}})
    assert "the nearest is sync.period;" in only_problem_of({"period": 4})


def test_keys_that_are_not_text_are_unknown_keys():
    assert only_problem_of({"sync": {1: 2}}).startswith("sync.1: unknown key")
    assert only_problem_of({("a", "b"): 2, "sync": {}}).startswith("('a', 'b'): unknown key")


@pytest.mark.parametrize("schedule", ["auto", "full", "equal", "stream"])
def test_delay_beyond_the_period_is_a_contradiction(schedule):
    line = only_problem_of({"sync": {"period": 4, "delay": 5, "schedule": schedule}})
    assert line.startswith("sync.delay: got 5 with sync.period 4")
    assert load_config({"sync": {"period": 4, "delay": 4, "schedule": schedule}}).sync.delay == 4


def test_a_manual_schedule_needs_its_plan():
    manual = load_config({"sync": {"schedule": "manual", "plan": "my plans/plan.json"}})
    assert manual.sync.plan == "my plans/plan.json"
    assert only_problem_of({"sync": {"schedule": "manual"}}).startswith("sync.plan: missing")


def test_a_config_built_by_hand_is_checked_too():
    assert only_problem_of(GeoConfig(sync=SyncConfig(period=0))).startswith("sync.period: got 0")
    assert only_problem_of(GeoConfig(sync={"perod": 3})).startswith("sync.perod: unknown key")
    assert only_problem_of(GeoConfig(link=7)).startswith("link: got 7")
    assert load_config({"sync": SyncConfig(period=3)}).sync.period == 3


def test_the_result_is_not_the_callers_object():
    mine = GeoConfig(sites=[2, 2])
    loaded = load_config(mine)
    loaded.sites.append(1)
    loaded.sync.period = 4
    assert mine == GeoConfig(sites=[2, 2])


@pytest.mark.parametrize("source", [7, b"geo.json", ["geo.json"], object()])
def test_a_source_of_another_kind_is_refused(source):
    assert "allowed: a GeoConfig, a mapping, or a file's path" in only_problem_of(source)


def test_a_number_too_long_to_print_is_still_one_line():
    assert only_problem_of({"sync": {"period": -(10**5000)}}).startswith("sync.period: got int too long to show")


def test_two_shots_are_for_dense_codecs():
    with pytest.raises(ConfigError, match='exchange: got "two-shot" with'):
        load_config({"sync": {"exchange": "two-shot"}, "compression": {"codec": "topk"}})


# ---- what is ignored


@pytest.mark.parametrize(
    "block, keys",
    [
        ({"sync": {"mode": "blocking", "delay": 2}}, ["sync.delay"]),
        ({"sync": {"mode": "blocking", "delay": 9, "period": 2}}, ["sync.delay"]),
        ({"sync": {"mode": "backward", "delay": 2}}, ["sync.delay"]),
        ({"sync": {"plan": "a.json"}}, ["sync.plan"]),
        ({"sync": {"optimizer_in_backward": True}}, ["sync.optimizer_in_backward"]),
        (
            {"sync": {"schedule": "manual", "plan": "a.json", "period": 2}, "compression": {"codec": "fp32"}},
            ["sync.period", "compression.codec"],
        ),
        ({"compression": {"codec": "int4", "residual": "buffer"}}, ["compression.residual"]),
        (
            {"compression": {"codec": "fp32", "ratio": 1, "overlap_weighting": False}},
            ["compression.ratio", "compression.overlap_weighting"],
        ),
    ],
)
def test_each_ignored_setting_warns_once_and_at_the_callers_line(block, keys):
    with pytest.warns(UserWarning) as caught:
        load_config(block)
    assert [str(warning.message).split(" ")[0] for warning in caught] == keys
    assert {warning.filename for warning in caught} == {__file__}


def test_nothing_ignored_means_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_config({"sync": {"mode": "blocking", "schedule": "stream"}})
        load_config({"sync": {"delay": 2, "schedule": "full"}, "compression": {"codec": "bf16"}})


# ---- environment


def test_unknown_variables_are_refused_with_the_rest(monkeypatch):
    monkeypatch.setenv("GEO_ACCEL_SITES", "a")
    first, second = problems_of({"sync": {"period": 0}})
    assert first.startswith("GEO_ACCEL_SITES: unknown environment variable; the nearest is GEO_ACCEL_SITE;")
    assert second.startswith("sync.period: ")
    first, second = problems_of("missing.json")
    assert first.startswith("GEO_ACCEL_SITES") and second.startswith("missing.json")


def test_known_variables_pass(monkeypatch):
    for name in ("GEO_ACCEL_SITE", "GEO_ACCEL_TRACE", "GEO_ACCEL_LAB"):
        monkeypatch.setenv(name, "x")
    load_config(None)


# ---- comparing sites


def test_fingerprint_sees_everything_but_the_interface():
    base = load_config(None).fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", base)
    assert load_config(GeoConfig(link=LinkConfig(interface="eth1"))).fingerprint() == base
    assert load_config({"link": {"bandwidth_mbps": 100}}).fingerprint() != base
    assert (
        load_config({"link": {"bandwidth_mbps": 100}}).fingerprint()
        == load_config({"link": {"bandwidth_mbps": 100.0}}).fingerprint()
    )


def test_differences_name_the_key_and_both_values():
    a = load_config({"sync": {"period": 4, "outer": "mean"}, "link": {"interface": "eth0"}}).to_dict()
    b = load_config({"sync": {"period": 8}, "link": {"interface": "eth1"}}).to_dict()
    assert differences(a, b) == [
        "sync.period: 4 against 8",
        'sync.outer.type: "mean" against not set',
        'sync.outer: not set against "auto"',
    ]
    assert differences(a, a) == []


# ---- and the rest of the package


def test_config_needs_no_torch():
    # A bare package of the same name, so that what geo_accel/__init__.py imports does not count.
    code = """
import sys, types
package = types.ModuleType("geo_accel")
package.__path__ = [sys.argv[1]]
sys.modules["geo_accel"] = package
from geo_accel.config import load_config
load_config({"sync": {"period": 4}})
sys.exit("torch" in sys.modules)
"""
    folder = str(Path(geo_accel.config.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=60)
