# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings to the table of unequal links."""

import json

import pytest

from benchmarks.unequal.drawing import draw
from benchmarks.unequal.figures import HEADINGS, cells, compare, reach, recordings
from benchmarks.unequal.setting import AUTO, BASELINE, METHODS, SEEDS, UPLINKS, seeds_of, shares_of

PLAN = {"words": "topk 1.0%", "exchange": "hub", "hub": 3, "period": 8}


def sites_of(step_s, slope):
    """Runs of 25, 50 and 100 steps, the baseline's of 100 and 600.

    Losses fall from 3 by `slope` a step; steps take twice as long on site 1.
    """
    sites = []
    for site, _ in enumerate(UPLINKS):
        runs = {}
        for name in METHODS:
            seconds = step_s[name] * (2 if site == 1 else 1)
            runs[name] = [
                [
                    {
                        "boundaries": [5 + seconds * step for step in range(steps + 1)],
                        "whole_s": seconds * steps,
                        "loss": 3 - slope[name] * steps,
                        "plan": PLAN | {"period": 8 + seed},
                        "sending_s": 0.1 * (site + 1),
                    }
                    for steps in (round(600 * share) for share in shares_of(name))
                ]
                for seed in range(seeds_of(name))
            ]
        sites.append(runs)
    return sites


def rows_of(step_s, slope):
    return {row["method"]: row for row in compare(sites_of(step_s, slope))}


def test_time_to_target_is_that_to_the_baselines_loss():
    slope = dict.fromkeys(METHODS, 0.01) | {"int8": 0.12, "int4": 0.001}
    rows = rows_of(dict.fromkeys(METHODS, 1.0) | {"int8": 0.5}, slope)
    assert rows[BASELINE]["to_target_s"] == pytest.approx([1200]) and rows[BASELINE]["speedup"] == pytest.approx(1)
    assert rows["int8"]["speedup"] == pytest.approx(24)  # twelve times as steep, twice as fast
    assert rows[BASELINE]["loss"] == pytest.approx(2) == rows["auto"]["loss"]  # of the length that all have
    assert rows["int4"]["to_target_s"] == [None] * SEEDS and "never never never" in cells(rows["int4"])
    assert rows["int8"]["sending_s"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rows["int8"]["step_s"] == pytest.approx(1.0)  # the slowest site's


def test_recordings_count_when_every_site_has_every_method(tmp_path):
    assert recordings(tmp_path) is None
    for site, _ in enumerate(UPLINKS):
        (tmp_path / f"rank-{site}.json").write_text(json.dumps({name: [[]] * seeds_of(name) for name in METHODS}))
    assert len(recordings(tmp_path)) == len(UPLINKS)
    for short in ({BASELINE: [[]]}, {name: [[]] for name in METHODS}):
        (tmp_path / "rank-1.json").write_text(json.dumps(short))
        assert recordings(tmp_path) is None


def test_reach_goes_in_straight_lines_between_runs():
    assert reach([(5.0, 3.0), (10.0, 2.0)], 2.25) == pytest.approx(8.75)
    assert reach([(5.0, 3.0), (10.0, 2.0)], 2.0) == pytest.approx(10)
    assert reach([(5.0, 3.0), (10.0, 2.0)], 3.5) == 5.0
    assert reach([(5.0, 3.0), (10.0, 2.0)], 1.9) is None


def test_seeds_count_alike_and_one_that_never_gets_there_is_not_left_out():
    sites = sites_of(dict.fromkeys(METHODS, 1.0), dict.fromkeys(METHODS, 0.01) | {AUTO: 0.06})
    for site in sites:
        for run in site[AUTO][1]:
            run["whole_s"] *= 4
    row = compare(sites)[-1]
    assert row["to_target_s"] == pytest.approx([200, 800, 200])
    assert row["speedup"] == pytest.approx(1200 / 400)
    for site in sites:
        for run in site[AUTO][1]:
            run["loss"] = 3.0
    row = compare(sites)[-1]
    assert row["to_target_s"][1] is None and row["speedup"] is None


def test_a_row_has_a_cell_for_each_heading():
    rows = rows_of(dict.fromkeys(METHODS, 1.0), dict.fromkeys(METHODS, 0.01))
    assert {len(cells(row)) for row in rows.values()} == {len(HEADINGS)}
    assert "hub (site 3)" in cells(rows[AUTO]) and "8 to 10" in cells(rows[AUTO])


def test_the_picture_is_drawn(tmp_path):
    rows = list(rows_of(dict.fromkeys(METHODS, 1.0), dict.fromkeys(METHODS, 0.01)).values())
    draw(tmp_path / "unequal.png", {"slow": rows, "slower": rows})
    assert (tmp_path / "unequal.png").stat().st_size > 10_000
