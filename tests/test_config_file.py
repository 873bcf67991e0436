# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
import warnings

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.config import ConfigError, GeoConfig, load_config
from tests.refused_config import only_problem_of, problems_of

# ---- where the block stands


DEEPSPEED = {"train_batch_size": "auto", "zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}


def test_a_deepspeed_config_keeps_its_own_keys():
    assert load_config({**DEEPSPEED, "geo_accel": {"sync": {"period": 4}}}).sync.period == 4


def test_a_deepspeed_config_without_the_block_is_refused():
    assert 'add a "geo_accel" block' in only_problem_of(DEEPSPEED)
    assert '"geo-accel" looks like a misspelling' in only_problem_of({**DEEPSPEED, "geo-accel": {}})
    assert "move sync into it" in only_problem_of({**DEEPSPEED, "sync": {"period": 4}})


@pytest.mark.parametrize("also_at_the_top", [True, False])
def test_a_nested_block_is_to_be_moved_to_the_top(also_at_the_top):
    source = {"train_batch_size": 8, "zero_optimization": {"stage": 1, "geo_accel": {"sync": {}}}}
    line = only_problem_of(source | ({"geo_accel": {}} if also_at_the_top else {}))
    assert line.startswith("zero_optimization.geo_accel: ") and "top level" in line


def test_a_misspelt_block_is_not_taken_for_deepspeeds():
    assert only_problem_of({"geo_acel": {"sync": {}}}) == "geo_acel: unknown key; the nearest is geo_accel"


def test_settings_beside_the_block_warn():
    with pytest.warns(UserWarning, match='"sync" stands beside the "geo_accel" block'):
        load_config({"geo_accel": {}, "sync": {"period": 4}})


def test_a_block_that_is_not_a_mapping_is_refused():
    assert only_problem_of({"geo_accel": None}).startswith("geo_accel: got null; allowed: a mapping")


# ---- files


BLOCK = {"sites": [2, 2], "sync": {"period": 4, "outer": {"type": "nesterov", "lr": 0.7, "momentum": 0.9}}}


@pytest.mark.parametrize(
    "name, dump", [("geo.json", json.dumps), ("geo.yaml", yaml.safe_dump), ("geo.yml", yaml.safe_dump)]
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_files(tmp_path, name, dump, wrapped):
    path = tmp_path / name
    path.write_text(dump({"geo_accel": BLOCK} if wrapped else BLOCK))
    assert load_config(path) == load_config(str(path)) == load_config(BLOCK)


def test_a_file_without_a_suffix_is_json_or_yaml_by_its_first_sign(tmp_path):
    for text in ('{"sync": {"period": 4}}', "sync:\n  period: 4\n"):
        (tmp_path / "geo").write_text(text)
        assert load_config(tmp_path / "geo").sync.period == 4


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "geo.json").write_bytes(b"\xef\xbb\xbf{}")
    assert load_config(tmp_path / "geo.json") == GeoConfig()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", b"", ["empty"]),
        ("a.yaml", b"  \n", ["empty"]),
        ("a.yaml", b"# only a comment\n", ["no settings"]),
        ("a.json", b'{\n"sync": {},\n// why\n}', ["line 3", "not JSON"]),
        ("a.json", b"[1, 2]", ["top level must be a mapping", "[1, 2]"]),
        ("a.yaml", b"just words", ["top level must be a mapping", '"just words"']),
        ("a.json", b'{"sync": {"period": 2, "period": 4}}', ['"period" appears twice']),
        ("a.yaml", b"sync:\n  period: 2\n  period: 4\n", ["line 3", '"period" appears twice']),
        ("a.yaml", b"sync: {period: 4\n", ["line 2", "not YAML"]),
        ("a.yaml", b"sync: !!python/object/apply:os.getcwd []\n", ["line 1", "not YAML"]),
        ("a.yaml", b'sync: !!int ""\n', ["not YAML"]),
        ("a.json", b"\xff\xfe{}", ["UTF-8"]),
        ("a.json", b"[" * 100_000, ["nested too deeply"]),
        ("a.json", b'{"sync": {"period": ' + b"9" * 5000 + b"}}", ["a.json"]),
        ("a.json", b'{"sync": {"period": NaN}}', ["sync.period: got nan"]),
        ("a.json", b'{"sync": {"period": 0}}', ["a.json: sync.period: got 0"]),
    ],
)
def test_a_bad_file_gets_one_line_with_its_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    line = only_problem_of(tmp_path / name)
    assert line.startswith(f"{tmp_path / name}: ")
    assert all(word in line for word in words), line


def test_files_that_cannot_be_opened(tmp_path):
    assert "No such file" in only_problem_of(tmp_path / "missing.json")
    assert "directory" in only_problem_of(tmp_path)
    assert "not JSON text" in only_problem_of('{"sync": {}}')
    assert "not a file name" in only_problem_of("geo\0.json")


def test_a_yaml_file_that_points_back_into_itself_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("sync: &a\n  outer: *a\n")
    assert problems_of(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("x: &a\n  y: *a\n")
    assert "x: unknown key" in only_problem_of(tmp_path / "b.yaml")


def test_a_yaml_merge_may_override(tmp_path):
    (tmp_path / "a.yaml").write_text("sync: {<<: {period: 4, delay: 2}, period: 8}\n")
    sync = load_config(tmp_path / "a.yaml").sync
    assert (sync.period, sync.delay) == (8, 2)


# ---- properties


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["geo_accel", "sync", "period", "outer", "type", "bf16"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(["junk.json", "junk.yaml", "junk"]),
    st.binary(max_size=60)
    | st.text(alphabet="{}[]:,-!&*<>|?%@`'\"#= \n\tabsync01e.", max_size=60).map(str.encode)
    | JSON.map(lambda value: json.dumps(value).encode()),
)
def test_junk_files_raise_nothing_but_config_errors(tmp_path_factory, name, content):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            load_config(path)
    except ConfigError as error:
        assert error.problems and all(line.isprintable() and line.startswith(str(path)) for line in error.problems)
