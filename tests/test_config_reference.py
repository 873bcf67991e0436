# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""docs/configuration.md is what the settings say."""

from pathlib import Path

from geo_accel.config import settings
from geo_accel.config.reference import page

PAGE = Path(__file__).parents[1] / "docs/configuration.md"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text("utf-8") == page(), "run `make docs`"
    assert len(page().splitlines()) <= 120


def test_every_setting_stands_on_it_once():
    assert [page().count(f"- **`{setting.key}`** (") for setting in settings()] == [1] * len(list(settings()))
