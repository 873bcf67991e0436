# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from tests.transport.conformance import CASES, SITES, names_the_dead
from tests.transport.links.process import CASE
from tests.workers.launch import run_workers


@pytest.mark.slow
@pytest.mark.parametrize("listening", ["012", "0"])
def test_a_process_that_is_killed_in_a_swap_is_named_within_seconds(three_keys, tmp_path, listening):
    command = ["tests.transport.links.process", str(tmp_path), str(three_keys[0].path.parent), listening]
    finished = run_workers(command, sites=(1,) * SITES, timeout_s=100)
    assert [one.returncode for one in finished] == [0, 0, -9], [one.output[-3000:] for one in finished]
    first = [json.loads((tmp_path / f"first-{rank}.json").read_text()) for rank in range(SITES)]
    CASES[CASE].check([found[CASE] for found in first])
    killed = [json.loads((tmp_path / f"rank-{rank}.json").read_text())["killed"] for rank in (0, 1)]
    assert names_the_dead([one["said"] for one in killed]), killed
    assert all(one["error"] == "SiteLostError" and one["retryable"] for one in killed), killed
    assert max(one["after_s"] for one in killed) < 15, killed
