# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Bytes on the wire by the kernel's count, beside the planner's: every codec, every exchange that goes with it."""

import json

import pytest

from geo_accel.config import DENSE_CODECS, SPARSE_CODECS
from geo_accel.lab import run_sites


def config(codec, exchange):
    sparse = {"ratio": 0.05, "residual": "weights"} if codec in SPARSE_CODECS else {}
    return {
        "sync": {"period": 1, "delay": 1, "outer": "mean", "exchange": exchange},
        "compression": {"codec": codec, **sparse},
    }


def counted(python_m, tmp_path, sites, configs):
    command = [*python_m, "tests.workers.bytes_worker", str(tmp_path), *map(json.dumps, configs)]
    result = run_sites(command, sites=sites, bandwidth_mbps=1000, timeout_s=150)
    assert result.exit_code == 0 and result.stopped_by is None, result.sites[0].output[-3000:]
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(sites)]
    return [(case[0], sum(rank["sent"] for rank in case) / sites) for case in zip(*ranks, strict=True)]


@pytest.mark.lab
@pytest.mark.slow
def test_the_kernel_counts_what_was_predicted_for_each_codec(python_m, tmp_path):
    cases = counted(python_m, tmp_path, 2, [config(codec, "direct") for codec in (*DENSE_CODECS, *SPARSE_CODECS)])
    for case, sent in cases:
        assert sent == pytest.approx(case["predicted"], rel=0.05), case


@pytest.mark.lab
@pytest.mark.slow
def test_the_kernel_counts_what_was_predicted_for_each_exchange(python_m, tmp_path):
    configs = [config("int8", exchange) for exchange in ("direct", "hub", "two-shot")] + [config("topk", "hub")]
    for case, sent in counted(python_m, tmp_path, 3, configs):
        assert sent == pytest.approx(case["predicted"], rel=0.05), case


@pytest.mark.lab
@pytest.mark.slow
def test_no_byte_crosses_in_a_step_but_the_rounds_however_the_model_is_wrapped(python_m, tmp_path):
    names = ["plain", "bare", "whole", "whole_unwrapped", "regional", "regional_unwrapped", "both"]
    command = [*python_m, "tests.workers.crossing_worker", str(tmp_path), *names]
    result = run_sites(command, sites=2, bandwidth_mbps=1000, timeout_s=150)
    assert result.exit_code == 0 and result.stopped_by is None, result.sites[0].output[-3000:]
    for name in names:
        for rank in (0, 1):
            record = json.loads((tmp_path / f"{name}.rank-{rank}.json").read_text())
            # Headers and acknowledgements on top; all gradients would be twice the rounds.
            assert record["rounds"] < record["kernel"] < 1.15 * record["rounds"] + 10_000, (name, record)
