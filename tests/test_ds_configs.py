# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The DeepSpeed configs that users start from: readable, and every key explained."""

import json
from pathlib import Path

import pytest

from geo_accel import load_config

FOLDER = Path(__file__).parents[1] / "ds_configs"
FILES = sorted(FOLDER.glob("*.json"))


def keys_of(block: dict) -> set[str]:
    """Names of settings on the two outer levels; what an optimizer takes is its own."""
    inner = {key for name in ("zero_optimization", "geo_accel") for key in block[name]}
    return set(block) | inner


def test_there_is_one_for_every_stage():
    stages = {json.loads(path.read_text())["zero_optimization"]["stage"] for path in FILES}
    assert stages == {0, 1, 2, 3} and len(FILES) == 6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_block_is_read_and_every_key_is_explained(path, recwarn):
    load_config(path)
    assert not recwarn.list
    explained = (FOLDER / "README.md").read_text()
    assert path.name in explained
    assert [key for key in keys_of(json.loads(path.read_text())) if key not in explained] == []
