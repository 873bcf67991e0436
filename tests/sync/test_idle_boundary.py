# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a step boundary costs where nothing starts or finishes: less than a hundredth of a step of 0.3 s."""

import json
import sys
from itertools import pairwise
from statistics import median

import pytest

from geo_accel.lab import run_sites

SLEPT_S, BOUND_S = 0.02, 0.003
CONFIG = {"sync": {"mode": "stream", "schedule": "full", "period": 20, "delay": 1}, "compression": {"codec": "bf16"}}


@pytest.mark.slow
def test_an_idle_boundary_costs_next_to_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.workers.pace_worker", "--steps", "60", "--step-s", str(SLEPT_S)]
    command += ["--values", "8000", "--out", str(tmp_path), "--config", json.dumps(CONFIG)]
    result = run_sites(command, shaping=False, timeout_s=120)
    assert result.exit_code == 0, result.sites[0].output[-3000:]
    for rank in range(2):
        boundaries = json.loads((tmp_path / f"rank-{rank}.json").read_text())["boundaries"]
        # 36 of 40 boundaries are idle, so the median is one of theirs.
        assert median(b - a for a, b in pairwise(boundaries[20:])) < SLEPT_S + BOUND_S
