# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""torch's gloo across the emulated network. Needs namespaces."""

import statistics
import sys

import pytest

from geo_accel.lab import run_sites

pytestmark = [pytest.mark.lab, pytest.mark.alone, pytest.mark.timeout(120)]

ALL_REDUCE = """
import time, torch, torch.distributed as dist
dist.init_process_group("gloo")
values = torch.full((2 << 20,), float(dist.get_rank() + 1))
for _ in range(3):
    values.fill_(dist.get_rank() + 1)
    dist.barrier()
    begin = time.perf_counter()
    dist.all_reduce(values)
    print(time.perf_counter() - begin)
assert values.eq(3).all()
"""


@pytest.mark.slow
def test_an_all_reduce_takes_what_its_bytes_need():
    result = run_sites([sys.executable, "-c", ALL_REDUCE], bandwidth_mbps=100, timeout_s=60)
    assert result.exit_code == 0, [site.output for site in result.sites]
    size = 4 * (2 << 20)
    for site in result.sites:
        times = [float(line) for line in site.output.split("\n") if line.startswith("0.") or line.startswith("1.")]
        # Of two sites each sends one payload in all; headers and acknowledgements take 6 %.
        assert statistics.median(times) == pytest.approx(8 * size / 100e6 * 1.065, rel=0.15)
        assert 3 * size < site.bytes_sent < 3 * size * 1.12
