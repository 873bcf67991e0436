# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings of DeepSpeed runs to the table."""

import pytest

from benchmarks.zero import HEADINGS, WARMUP, cells, compare

PLAN = {"period": 9, "codec": "int4"}


def run(method, seconds, slow_site=1, sent=0.0):
    """Two sites, of which one takes twice as long; the first steps, ten times as long, do not count."""
    sites = []
    for site in range(2):
        at, boundaries = 3.0, [3.0]
        for step in range(WARMUP[method] + 5):
            at += seconds * (1 if site != slow_site else 2) * (10 if step < WARMUP[method] else 1)
            boundaries.append(at)
        sites.append({"boundaries": boundaries, "sent": sent, "plan": PLAN if method == "geo" else None})
    return sites


def test_efficiency_is_against_all_runs_without_network():
    found = {
        "alone": [run("alone", 0.1), run("alone", 0.2, slow_site=0), run("alone", 0.3)],
        "zero": [run("zero", 4.0, sent=34e6)],
        "geo": [run("geo", 0.25, sent=2.5e5)],
    }
    alone, zero, geo = compare(found)
    assert alone["step_s"] == pytest.approx(0.4) and alone["efficiency"] == pytest.approx(1)
    assert zero["efficiency"] == pytest.approx(0.05) and geo["efficiency"] == pytest.approx(0.8)
    assert cells(geo) == ("ZeRO-1 with geo_accel", "0.500", "0.800", "0.25", "H = 9, int4")
    assert {len(cells(row)) for row in (alone, zero, geo)} == {len(HEADINGS)}
