# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The engine between real processes: one launch per arrangement of sites, all scenarios in it."""

import json
from pathlib import Path

import pytest

from geo_accel.transport.identity import HEADER_BYTES
from tests.workers.launch import run_workers
from tests.workers.runs import windows_without

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
    "wishing",
    "wishing_backward",
    "wishing_measured",
    "unequal",
    "lives",
]
MOVING = [name for name in SCENARIOS if name.startswith("moving")]
EXACT_IN_THE_END = [name for name in MOVING if name not in ("moving_buffer", "moving_nesterov")]
QUIET = ["quiet", "quiet_nesterov", "quiet_blocking", "quiet_topk"]
FLUSHED = ["schedule_free", "by_hand", "other_defaults"]
REFUSED = {"odd_weights": "the weights of 1.0.weight", "odd_buffer": "names, shapes or types of 0.mine"}
ALL = [*SCENARIOS, *QUIET, *FLUSHED, *REFUSED]
ARRANGEMENTS = {"1+1": (1, 1), "1+1+1": (1, 1, 1), "2+2": (2, 2), "2+1": (2, 1)}


@pytest.mark.parametrize(
    "how, kind, told",
    [
        ("damaged", "DamagedPayloadError", "{site} (rank 0): what it sent arrived damaged: the checksum of its"),
        ("not_finite", "ValueError", "{site} (rank 0): 1.0 holds a value that is not finite"),
    ],
)
def test_what_is_broken_is_named_and_never_averaged_in(tmp_path, how, kind, told):
    command = ["tests.workers.engine_worker", str(tmp_path), how]
    for rank, finished in enumerate(run_workers(command, timeout_s=100)):
        assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
    records = [json.loads((tmp_path / f"{how}.rank-{rank}.json").read_text()) for rank in (0, 1)]
    said = [record["said"] for record in records]
    culprit = 1 if how == "damaged" else 0
    assert said[culprit].startswith(f"{kind}: ") and told.replace("{site}", "") in said[culprit]
    assert "SiteLostError" in said[1 - culprit]
    assert all(record["moved"] == 0 for record in records)


def test_a_site_that_is_out_of_step_is_named_by_all_and_nothing_is_averaged(tmp_path):
    """Payloads that do not belong together ended the process in gloo, or looked damaged."""
    for scenario, sites in (("out_of_step", (1, 1)), ("out_of_step_hub", (1, 1, 1))):
        command = ["tests.workers.engine_worker", str(tmp_path), "late", scenario]
        for rank, finished in enumerate(run_workers(command, sites=sites, timeout_s=100)):
            assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
        records = [json.loads((tmp_path / f"{scenario}.rank-{r}.json").read_text()) for r in range(len(sites))]
        others = " and ".join(f"site{r} (rank {r})" for r in range(len(sites)) if r != 1)
        flush = "flushes" if len(sites) == 2 else "flush"
        wanted = f"OutOfStepError: {others} {flush} after step 7 (to save, evaluate or end) while site1 (rank 1) "
        for record in records:
            assert record["said"] == records[0]["said"] and record["said"].startswith(wanted), record
            assert "\n" not in record["said"] and record["moved"] == 0
        # Before that one site was late, which the others said.
        said = [json.loads((tmp_path / f"late.rank-{r}.json").read_text())["said"] for r in range(len(sites))]
        assert not said[1] and all(len(lines) == 1 for rank, lines in enumerate(said) if rank != 1)
        assert "averages after step 5 (round 1 there): has been waiting for site site1 (rank 1)" in said[0][0]


def test_a_site_that_is_lost_while_steps_are_measured_is_named_at_the_next_step(tmp_path):
    """Survivors used to notice when measuring was over, and then waited for the deadline."""
    finished = run_workers(["tests.workers.engine_worker", str(tmp_path), "lost_early"], timeout_s=60)
    assert [f.returncode for f in finished] == [0, 9], finished[0].output[-3000:]
    record = json.loads((tmp_path / "lost_early.json").read_text())
    assert record["step"] in (4, 5) and "site site1 (rank 1) is gone" in record["said"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Records of an arrangement by scenario, then by rank; each arrangement is launched once."""
    known = {}

    def launch(arrangement):
        if arrangement not in known:
            out, sites = tmp_path_factory.mktemp("engine"), ARRANGEMENTS[arrangement]
            command = ["tests.workers.engine_worker", str(out), *ALL]
            for rank, finished in enumerate(run_workers(command, sites=sites, timeout_s=150)):
                assert finished.returncode == 0, f"rank {rank}:\n{finished.output[-3000:]}"
            known[arrangement] = {"sites": sites} | {
                name: [json.loads((out / f"{name}.rank-{rank}.json").read_text()) for rank in range(sum(sites))]
                for name in ALL
            }
        return known[arrangement]

    return launch


@pytest.fixture(params=ARRANGEMENTS)
def records(request, launched):
    return launched(request.param)


def test_all_ranks_hold_the_same_bits_after_a_flush(records):
    for name in [*SCENARIOS[:-1], *FLUSHED]:
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


@pytest.mark.parametrize("name", ["wishing", "wishing_backward", "wishing_measured"])
def test_what_one_site_wishes_all_do_at_the_same_step(records, name):
    done = records[name][0]["done"]
    assert all(record["done"] == done for record in records[name])
    (saved, save), (stopped, stop) = done
    assert (save, stop) == ("save", "stop") and 3 <= saved <= 7 and 8 <= stopped <= 12


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


@pytest.mark.parametrize("name", QUIET)
def test_where_snapshots_are_taken_a_boundary_asks_for_no_value(launched, name):
    """As on an accelerator, which the training thread would have to wait for."""
    for record in launched("2+2")[name]:
        assert record["waits"] == [[]] * 12 and record["bytes"] > 1000 and record["noticed"] == 1
    # Without a snapshot the training thread encodes, and looks whether what it reads is finite.
    assert any(launched("1+1")["quiet"][0]["waits"])


def test_a_flush_averages_the_form_for_use_whichever_form_the_weights_have(records):
    """Schedule-free: the sites' weights are those of the mean in use, and go on from there alike."""
    for record in records["schedule_free"]:
        assert max(record["errors"]) < 1e-6
        assert record["train_mode"] == [True, False, True]  # as the script left it


def test_what_a_script_moves_by_hand_is_averaged_in_its_own_precision(records):
    """float64 statistics, half, complex, copies; whole numbers and pruning masks are the first site's."""
    for record in records["by_hand"]:
        errors = record["errors"]
        assert errors.pop("fine") < 1e-15 and max(errors.values()) < 1e-6
        assert record["counter"] == 10 and record["flags"] == [True, False, False]
        assert record["mask"] == [0.0] + [1.0] * 7


def test_what_no_optimizer_has_is_no_unit(records):
    names = [name for _, members in records["by_hand"][0]["units"] for name in members]
    assert "student.weight" in names and not [name for name in names if name.startswith(("forgotten", "teacher"))]


def test_what_did_not_change_is_not_sent(launched):
    record = launched("1+1")["by_hand"][0]
    assert record["quiet"] < 1000  # the teacher alone would be 9760 bytes


def test_the_defaults_of_a_script_do_not_reach_rounds(records):
    for record in records["other_defaults"]:
        assert record["error"] < 1e-5


@pytest.mark.parametrize("name", REFUSED)
def test_a_site_that_is_unlike_the_others_after_a_flush_is_refused_everywhere_by_name(records, name):
    said = {record["said"] for record in records[name]}
    assert len(said) == 1, said
    assert f"after a flush site0 and site1 differ in {REFUSED[name]}" in said.pop()


def test_batch_norm_statistics_are_averaged_by_the_flush(records):
    for record in records["moving"]:
        assert record["buffer"] == pytest.approx([record["buffer_wanted"]] * 8, abs=1e-6)


def test_every_unit_starts_in_any_period_of_consecutive_steps(records):
    """Over random plans, skipped steps, flushes, saves and restarts from checkpoints."""
    for life in records["lives"][0]["lives"]:
        traces = [Path(life["folder"]) / f"trace-{i}" / "site0.0.trace.json" for i in range(len(life["steps"]))]
        assert windows_without(traces, life["period"], sum(life["steps"]), life["begin"]) == []


def test_wan_bytes_do_not_grow_with_the_ranks_of_a_site(launched):
    for name in ("moving", "moving_bf16"):
        alone = launched("1+1")[name][0]["bytes"]
        together = sum(launched("2+2")[name][rank]["bytes"] for rank in (0, 1))
        # Odd units are padded to two slices, and each rank has headers of its own for its ten rounds and the flush.
        assert alone <= together <= 1.1 * alone + 15 * HEADER_BYTES


def test_where_sites_differ_in_size_one_rank_carries_all(launched):
    sent = [record["bytes"] for record in launched("2+1")["moving"]]
    assert sent[0] == sent[2] == launched("1+1")["moving"][0]["bytes"] and sent[1] == 0
