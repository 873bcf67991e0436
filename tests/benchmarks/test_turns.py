# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From recordings of turns to the table of step times."""

import pytest

from benchmarks.kit.report import Table
from benchmarks.turns import COLUMNS, JOBS, figures

PLAN = {"period": 9, "codec": "int4", "delay": 1, "reason": "r"}
SENT = {"none": 0.0, "geo": 2.5e5}


def site(turns):
    return {"turns": turns, "sent": SENT, "peak": {}, "waited_s": 0.002, "geo": {"plan": PLAN}}


def alone(step_s):
    """Ten times slower at first; what came before the warm-up counts neither in time nor in bytes."""
    times = [10 * step_s * step for step in range(5)]
    times += [times[-1] + step_s * step for step in range(1, 11)]
    return {"boundaries": times, "sent": [10**9] * 4 + [10**6 * step for step in range(11)]}


class Found:
    """Results by the method of a job."""

    def __init__(self, **recordings):
        self._recordings = recordings

    def find(self, job):
        found = self._recordings.get(job.method)
        return found and {"recordings": found}


def test_each_turn_is_compared_with_itself_on_the_slower_site():
    """A machine that gets slower in the course of the run changes nothing, nor does one disturbed turn."""
    fast = [{"none": 0.95 * mood, "geo": 0.9 * mood} for mood in (0.3, 0.33, 0.4, 0.45)] + [{"none": 0.3, "geo": 1.0}]
    slow = [{"none": 0.9 * mood, "geo": mood} for mood in (0.3, 0.33, 0.4, 0.45)] + [{"none": 0.3, "geo": 9.0}]
    jobs = JOBS["zero"]
    assert figures(Found(turns=[site(fast), site(slow)]), jobs) is None
    none, geo, ddp = figures(Found(turns=[site(fast), site(slow)], ddp=[alone(2.0), alone(4.0)]), jobs)
    assert geo["efficiency"] == pytest.approx(0.95) and geo["step_s"] == 0.4 and geo["plan"] == PLAN
    assert ddp["step_s"] == pytest.approx(4.0) and ddp["efficiency"] == pytest.approx(none["step_s"] / 4)
    assert ddp["sent_mb"] == pytest.approx(1)
    table = Table.of("zero", COLUMNS, [none, geo, ddp])
    assert "peak MiB" not in table.headings and "MB sent per step" in table.headings
    assert table.rows[1][0].startswith("ZeRO-1 with") and "H = 9, int4, delay 1" in table.rows[1]
