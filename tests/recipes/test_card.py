# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The model card."""

import yaml

from recipes.card import geo_summary, write_card


def test_the_card_has_a_header_metrics_and_the_run(tmp_path):
    summary = {"sites": ["a", "b"], "plan": {"period": 4, "codec": "bf16", "rounds": [[["wte"]]]}, "wan_bytes": 12}
    write_card(tmp_path, base_model="gpt2", metrics={"eval_loss": 1.23456}, summary=summary)
    card = (tmp_path / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["geo_accel"],
        "base_model": "gpt2",
    }
    for row in ("| eval_loss | 1.235 |", "| sites | a, b |", "| plan.period | 4 |", "| wan_bytes | 12 |"):
        assert row in body
    assert "rounds" not in body


def test_without_geo_accel_there_is_no_such_section(tmp_path):
    write_card(tmp_path, base_model=None, metrics={}, summary=None)
    card = (tmp_path / "README.md").read_text()
    assert "base_model" not in card and "across sites" not in card


def test_the_summary_is_asked_of_the_handle():
    class Handle:
        def summary(self):
            return {"period": 2}

    assert geo_summary(Handle()) == {"period": 2}
    assert geo_summary(None) is None
