# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to the table of unequal links."""

import json

import pytest

from benchmarks.unequal import BASELINE, HEADINGS, METHODS, UPLINKS, cells, compare

PLAN = {"words": "topk 1.0%", "exchange": "hub", "hub": 3, "period": 8}


def recordings(tmp_path, step_s, slope):
    """Losses that fall by `slope` a step, from 3; each method's steps take `step_s` seconds."""
    for rank in range(len(UPLINKS)):
        runs = {
            name: {
                "boundaries": [step_s[name] * step for step in range(101)],
                "losses": [3 - slope[name] * step for step in range(100)],
                "loss": 2.5,
                "plan": PLAN,
                "sending_s": 0.1 * (rank + 1),
                "exposed_s": 0.0,
            }
            for name in METHODS
        }
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps(runs))


def test_time_to_target_is_that_to_the_baselines_last_loss(tmp_path):
    slope = dict.fromkeys(METHODS, 0.01) | {"int8": 0.02, "int2": 0.001}
    recordings(tmp_path, dict.fromkeys(METHODS, 1.0) | {"int8": 0.5}, slope)
    rows = {row["method"]: row for row in compare(tmp_path)}
    assert rows[BASELINE]["to_target_s"] == 100 and rows[BASELINE]["speedup"] == 1
    # Twice as steep, twice as fast: but for the smoothing, a quarter of the time.
    assert rows["int8"]["to_target_s"] == 27 and rows["int8"]["speedup"] == pytest.approx(100 / 27)
    assert rows["int2"]["to_target_s"] is None and "never" in cells(rows["int2"] | {"scenario": "s"})
    assert rows["int8"]["sending_s"] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_row_has_a_cell_for_each_heading(tmp_path):
    recordings(tmp_path, dict.fromkeys(METHODS, 1.0), dict.fromkeys(METHODS, 0.01))
    row = compare(tmp_path)[0] | {"scenario": "slow"}
    assert len(cells(row)) == len(HEADINGS) and "hub (site 3)" in cells(row)
