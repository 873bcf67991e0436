# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The engine's overhead: what is computed, and that both processes run. How much it is, is not tested."""

import json

import pytest

from benchmarks.engine_overhead import main, summarise


def test_only_idle_boundaries_count():
    inside = [0.001, 5.0, 0.003, 7.0, 0.002]
    one = summarise(step_s=[1.0] * 5, inside_s=inside, idle=[True, False, True, False, True])
    assert one["idle_boundaries"] == 3 and one["idle_s"] == 0.002 and one["busy_s"] == 6.0
    assert one["share"] == pytest.approx(0.002)


@pytest.mark.slow
def test_both_processes_are_measured(tmp_path, capsys):
    assert main(["--json", str(tmp_path / "overhead.json")]) == 0
    figures = json.loads((tmp_path / "overhead.json").read_text())
    assert len(figures["ranks"]) == 2
    for one in figures["ranks"]:
        # 56 of 60 steps are looked at; two boundaries of each of three periods start or finish something.
        assert one["idle_boundaries"] == 51
        assert 0 < one["idle_s"] < one["busy_s"] < one["step_s"]
    assert "rank" in capsys.readouterr().out
