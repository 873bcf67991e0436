# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from geo_accel.config import ConfigError, Outer, load_config


@pytest.mark.parametrize(
    "outer, key",
    [
        ({}, "sync.outer.type"),
        ({"type": "nestrov", "lr": 1, "momentum": 0}, "sync.outer.type"),
        ({"type": "nesterov", "momentum": 0.5}, "sync.outer.lr"),
        ({"type": "nesterov", "lr": 0, "momentum": 0.5}, "sync.outer.lr"),
        ({"type": "nesterov", "lr": True, "momentum": 0.5}, "sync.outer.lr"),
        ({"type": "nesterov", "lr": 1, "momentum": 1}, "sync.outer.momentum"),
        ({"type": "nesterov", "lr": 1, "momentum": float("nan")}, "sync.outer.momentum"),
        ({"type": "mean", "lr": 1}, "sync.outer.lr"),
        (Outer(lr=-1), "sync.outer.lr"),
        (Outer(momentum=1), "sync.outer.momentum"),
    ],
)
def test_a_wrong_outer_step_names_its_part(outer, key):
    with pytest.raises(ConfigError) as caught:
        load_config({"sync": {"outer": outer}})
    assert any(line.startswith(f"{key}: ") for line in caught.value.problems)


def test_a_key_of_another_place_is_pointed_there():
    outer = {"type": "nesterov", "lr": 0.7, "momentum": 0.5, "period": 4}
    with pytest.raises(ConfigError, match=r"^sync\.outer\.period: unknown key; the nearest is sync\.period; "):
        load_config({"sync": {"outer": outer}})


@pytest.mark.parametrize(
    "value, line",
    [
        ({"threshold": 1}, "overlap_weighting.gain: missing; allowed: a number >= 1"),
        ({"threshold": 1, "gain": 0.5}, "overlap_weighting.gain: got 0.5"),
        ({"threshold": 1.5, "gain": 2}, "overlap_weighting.threshold: got 1.5"),
        ({"treshold": 1, "gain": 2, "threshold": 1}, "overlap_weighting.treshold: unknown key"),
    ],
)
def test_overlap_weighting_names_the_part_that_is_wrong(value, line):
    with pytest.raises(ConfigError, match=f"^compression.{line}"):
        load_config({"compression": {"codec": "topk", "overlap_weighting": value}})
