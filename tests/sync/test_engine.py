# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The engine between real processes: one launch per arrangement of sites, all scenarios in it."""

import json
from pathlib import Path

import pytest

from geo_accel.testing.launch import run_workers
from geo_accel.testing.runs import windows_without

SCENARIOS = [
    "stream",
    "stream_late",
    "stream_bf16",
    "blocking",
    "moving",
    "moving_bf16",
    "moving_int8",
    "moving_int2",
    "moving_topk",
    "moving_randk",
    "moving_buffer",
    "moving_nesterov",
    "unequal",
    "lives",
]
MOVING = [name for name in SCENARIOS if name.startswith("moving")]
EXACT_IN_THE_END = [name for name in MOVING if name not in ("moving_buffer", "moving_nesterov")]
ARRANGEMENTS = {"1+1": (1, 1), "1+1+1": (1, 1, 1), "2+2": (2, 2), "2+1": (2, 1)}


@pytest.mark.parametrize(
    "how, kind, told",
    [
        ("damaged", "DamagedPayloadError", "{site} (rank 0): what it sent arrived damaged: the checksum of its"),
        ("not_finite", "ValueError", "{site} (rank 0): 1.0 holds a value that is not finite"),
    ],
)
def test_what_is_broken_is_named_and_never_averaged_in(tmp_path, how, kind, told):
    command = ["geo_accel.testing.engine_worker", str(tmp_path), how]
    for rank, finished in enumerate(run_workers(command, timeout_s=100)):
        assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
    records = [json.loads((tmp_path / f"{how}.rank-{rank}.json").read_text()) for rank in (0, 1)]
    said = [record["said"] for record in records]
    culprit = 1 if how == "damaged" else 0
    assert said[culprit].startswith(f"{kind}: ") and told.replace("{site}", "") in said[culprit]
    assert "SiteLostError" in said[1 - culprit]
    assert all(record["moved"] == 0 for record in records)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Records of an arrangement by scenario, then by rank; each arrangement is launched once."""
    known = {}

    def launch(arrangement):
        if arrangement not in known:
            out, sites = tmp_path_factory.mktemp("engine"), ARRANGEMENTS[arrangement]
            command = ["geo_accel.testing.engine_worker", str(out), *SCENARIOS]
            for rank, finished in enumerate(run_workers(command, sites=sites, timeout_s=150)):
                assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
            known[arrangement] = {"sites": sites} | {
                name: [json.loads((out / f"{name}.rank-{rank}.json").read_text()) for rank in range(sum(sites))]
                for name in SCENARIOS
            }
        return known[arrangement]

    return launch


@pytest.fixture(params=ARRANGEMENTS)
def records(request, launched):
    return launched(request.param)


def test_all_ranks_hold_the_same_bits_after_a_flush(records):
    for name in SCENARIOS[:-1]:
        assert all(record["bits"] == records[name][0]["bits"] for record in records[name]), name
    for life in zip(*(record["lives"] for record in records["lives"]), strict=True):
        assert all(record["bits"] == life[0]["bits"] for record in life)


@pytest.mark.parametrize("name, within", [("stream", 5), ("stream_late", 7), ("stream_bf16", 30)])
def test_weights_that_nobody_moves_converge_to_the_mean(records, name, within):
    for record in records[name]:
        assert record["distances"][0] > 0.1  # the sites do start apart
        assert record["distances"][within - 1] < 1e-6
        assert record["settled"] < 1e-6 and record["flushed"] < 1e-6


def test_blocking_is_the_mean_at_once(records):
    for record in records["blocking"]:
        assert record["distances"][0] > 0.1 and record["distances"][1] < 1e-6


@pytest.mark.parametrize("name", EXACT_IN_THE_END)
def test_no_progress_is_lost_or_counted_twice(records, name):
    """Flushed weights are the start plus the mean of what the sites did, whatever was in flight or rounded."""
    for record in records[name]:
        assert record["error"] < 1e-5


def test_outer_momentum_moves_further_than_the_mean(records):
    assert records["moving_nesterov"][0]["error"] > 1e-3


def test_anchors_agree_between_sites_at_all_times(records):
    sizes = records["sites"]
    if len(set(sizes)) > 1:  # the first rank of each site carries all
        carriers = [[sum(sizes[:i]) for i in range(len(sizes))]]
    else:
        carriers = [[site * sizes[0] + i for site in range(len(sizes))] for i in range(sizes[0])]
    for name in MOVING:
        for ranks in carriers:
            anchors = [records[name][rank]["anchors_before"] for rank in ranks]
            assert anchors[0] and all(anchor == anchors[0] for anchor in anchors)


def test_anchors_agree_over_200_rounds_with_unequal_ratios(records):
    sizes = records["sites"]
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    seen = [records["unequal"][rank]["anchors"] for rank in firsts]
    assert len(set(seen[0])) == 20 and all(one == seen[0] for one in seen)


def test_batch_norm_statistics_are_averaged_by_the_flush(records):
    for record in records["moving"]:
        assert record["buffer"] == pytest.approx([record["buffer_wanted"]] * 8, abs=1e-6)


def test_every_unit_starts_in_any_period_of_consecutive_steps(records):
    """Over random plans, skipped steps, flushes, saves and restarts from checkpoints."""
    for life in records["lives"][0]["lives"]:
        traces = [Path(life["folder"]) / f"trace-{i}" / "rank-0.trace.json" for i in range(len(life["steps"]))]
        assert windows_without(traces, life["period"], sum(life["steps"]), life["begin"]) == []


def test_wan_bytes_do_not_grow_with_the_ranks_of_a_site(launched):
    for name in ("moving", "moving_bf16"):
        alone = launched("1+1")[name][0]["bytes"]
        together = sum(launched("2+2")[name][rank]["bytes"] for rank in (0, 1))
        assert alone <= together <= 1.1 * alone  # odd units are padded to two slices


def test_where_sites_differ_in_size_one_rank_carries_all(launched):
    sent = [record["bytes"] for record in launched("2+1")["moving"]]
    assert sent[0] == sent[2] == launched("1+1")["moving"][0]["bytes"] and sent[1] == 0
