# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What holds for any config: round trips, fingerprints, misspellings, junk."""

import copy
import json
import warnings
from functools import reduce

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.config import (
    CODECS,
    CompressionConfig,
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


def load_quietly(source) -> GeoConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_config(source)


def auto_or(strategy):
    return st.just("auto") | strategy


POSITIVE = st.floats(min_value=1e-6, max_value=1e9)


@st.composite
def valid_configs(draw) -> GeoConfig:
    nesterov = st.builds(Outer, lr=POSITIVE, momentum=st.floats(0, 1, exclude_max=True))
    period = draw(auto_or(st.integers(1, 64)))
    longest = period if isinstance(period, int) else 64
    config = GeoConfig(
        sites=draw(auto_or(st.lists(st.integers(1, 64), min_size=1, max_size=8))),
        sync=SyncConfig(
            mode=draw(st.sampled_from(["stream", "blocking"])),
            period=period,
            schedule=draw(st.sampled_from(["auto", "full", "equal", "stream"])),
            delay=draw(auto_or(st.integers(1, longest))),
            outer=draw(st.just("auto") | st.just(Outer()) | nesterov),
        ),
        compression=CompressionConfig(
            codec=draw(auto_or(st.sampled_from(CODECS))),
            ratio=draw(auto_or(st.floats(1e-6, 1))),
            residual=draw(auto_or(st.sampled_from(("weights", "buffer", "none")))),
            overlap_weighting=draw(
                auto_or(st.booleans() | st.builds(Overlap, threshold=st.integers(1, 9), gain=st.floats(1, 9)))
            ),
            coefficients=draw(st.sampled_from(("equal", "data", "blend"))),
        ),
        link=LinkConfig(
            interface=draw(auto_or(st.from_regex("[a-z]{1,8}[0-9]", fullmatch=True))),
            bandwidth_mbps=draw(auto_or(POSITIVE)),
            latency_ms=draw(auto_or(st.floats(0, 1e6))),
        ),
    )
    config.resilience.patience_s = draw(auto_or(POSITIVE))
    config.resilience.allow_public_plaintext = draw(st.booleans())
    return config


@given(valid_configs())
def test_any_valid_config_round_trips(config):
    block = config.to_dict()
    for source in (
        config,
        block,
        {"geo_accel": block},
        json.loads(json.dumps(block)),
        yaml.safe_load(yaml.safe_dump(block)),
    ):
        again = load_quietly(source)
        assert again == config
        assert again.to_dict() == block
        assert again.fingerprint() == config.fingerprint()
    assert differences(block, copy.deepcopy(block)) == []


@given(valid_configs(), valid_configs())
def test_fingerprints_are_equal_exactly_where_there_are_no_differences(a, b):
    assert (a.fingerprint() == b.fingerprint()) == (differences(a.to_dict(), b.to_dict()) == [])


LETTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyz_-")
KEYS = sorted(
    {setting.key for setting in settings()}
    | {"sync", "compression", "link", "resilience", "sync.outer.type", "sync.outer.lr", "sync.outer.momentum"}
)


@st.composite
def misspellings(draw):
    """A dotted key and the same key with one letter of its last part dropped, added, changed or swapped."""
    key = draw(st.sampled_from(KEYS))
    parent, _, name = key.rpartition(".")
    at = draw(st.integers(0, len(name) - 1))
    kind = draw(st.sampled_from(["drop", "add", "change", "swap"]))
    letter = draw(LETTERS)
    wrong = {
        "drop": name[:at] + name[at + 1 :],
        "add": name[:at] + letter + name[at:],
        "change": name[:at] + letter + name[at + 1 :],
        "swap": name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
    }[kind]
    return parent, name, wrong


@given(misspellings(), st.integers() | st.text() | st.none())
def test_a_misspelt_key_is_reported_with_its_nearest_name(misspelling, value):
    parent, name, wrong = misspelling
    prefix = f"{parent}." if parent else ""
    if prefix + wrong in KEYS:
        return
    block = reduce(lambda inner, part: {part: inner}, reversed((prefix + wrong).split(".")), value)
    with pytest.raises(ConfigError) as caught:
        load_config(block)
    line = next(line for line in caught.value.problems if "unknown key" in line)
    assert line.startswith(f"{prefix}{wrong}: unknown key; the nearest is {prefix}{name}; allowed here: ")


NAMES = st.sampled_from(
    ["geo_accel", *(part for key in KEYS for part in key.split(".")), "zero_optimization", "train_batch_size", "bf16"]
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.sampled_from(["auto", "stream", "mean", "nesterov", "fp32", 1, 0.5, 10**400]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JUNK)
def test_junk_raises_nothing_but_config_errors_of_one_line_per_problem(junk):
    try:
        config = load_quietly(junk)
    except ConfigError as error:
        assert error.problems and all(line.isprintable() and line for line in error.problems)
        assert all(len(line) < 2000 for line in error.problems)
    else:
        assert load_quietly(config) == config
