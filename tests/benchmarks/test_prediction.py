# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to the table of predicted and measured step times."""

import json

import pytest

from benchmarks.prediction import HEADINGS, cells, compare
from benchmarks.tables import as_markdown
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.request import Request
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, UnitProfile

UNITS = [("head", 500_000), ("tail", 500_000)]
# 1 MB a step in bf16 over 8 Mbit/s with period 2: the link needs 1 s per step, whatever computing takes.
PROFILE = Profile(
    units=tuple(UnitProfile(name=name, numel=numel, backward_s=0.02) for name, numel in UNITS),
    step_s=0.1,
    after_s=0.01,
    links=(("site0", Link.of(mbps=8, latency_ms=0)), ("site1", Link.of(mbps=8, latency_ms=0))),
)
PLAN = choose_plan(Request(mode="stream", period=2, delay=1, codec="bf16"), UNITS, 2)


def recordings(tmp_path, steps_s, quiet_s=0.1):
    """One case, run twice; each site's steps take `steps_s` seconds."""
    for rank, step_s in enumerate(steps_s):
        boundaries = [step_s * step for step in range(17)]
        case = {"boundaries": boundaries, "quiet_s": quiet_s, "plan": PLAN.to_json(), "profile": PROFILE.to_json()}
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps([case, case]))


def test_the_slowest_site_is_measured_and_the_link_predicts(tmp_path):
    recordings(tmp_path, (0.9, 1.25))
    (row,) = compare(tmp_path)
    assert row["predicted_s"] == pytest.approx(1.0) and row["measured_s"] == pytest.approx(1.25)
    assert row["error"] == pytest.approx(-0.2)
    assert (row["schedule"], row["mode"], row["period"]) == ("stream", "stream", 2)


def test_computing_is_the_mean_of_before_and_after(tmp_path):
    recordings(tmp_path, (1.0, 1.0), quiet_s=0.3)
    (row,) = compare(tmp_path)
    assert row["compute_s"] == pytest.approx(0.2)


def test_the_markdown_has_a_line_per_case(tmp_path):
    recordings(tmp_path, (1.0, 1.0))
    lines = as_markdown(HEADINGS, [cells(row | {"mbps": 8.0}) for row in compare(tmp_path)]).splitlines()
    assert len(lines) == 3 and lines[2] == "| 8 | stream / stream | 2 | 0.100 | 1.000 | 1.000 | +0.0% |"
