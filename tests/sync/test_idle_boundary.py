# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a step boundary costs where nothing starts or finishes: less than a hundredth of a step of 0.3 s."""

import json
from itertools import pairwise
from statistics import median

import pytest

from tests.workers.launch import run_workers

SLEPT_S, BOUND_S = 0.02, 0.003
CONFIG = {"sync": {"mode": "stream", "schedule": "full", "period": 20, "delay": 1}, "compression": {"codec": "bf16"}}


@pytest.mark.alone
def test_an_idle_boundary_costs_next_to_nothing(tmp_path):
    command = ["tests.workers.pace_worker", "--steps", "60", "--step-s", str(SLEPT_S)]
    command += ["--values", "8000", "--out", str(tmp_path), "--config", json.dumps(CONFIG)]
    for rank, finished in enumerate(run_workers(command, timeout_s=120)):
        assert finished.returncode == 0, finished.output[-3000:]
        boundaries = json.loads((tmp_path / f"rank-{rank}.json").read_text())["boundaries"]
        # 36 of 40 boundaries are idle, so the median is one of theirs.
        assert median(b - a for a, b in pairwise(boundaries[20:])) < SLEPT_S + BOUND_S
