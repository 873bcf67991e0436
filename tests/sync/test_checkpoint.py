# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A sync state comes back as it was saved, or is refused in one line that names the file, on every rank."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from geo_accel.plan.averaging import Averaging
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.members import Members
from geo_accel.plan.request import Request
from geo_accel.sync import checkpoint
from geo_accel.topology import Site
from tests.sync.ranks import SITES, on_ranks
from tests.transport.table import same_line


def save_state(folder, step=10, sites=SITES, content=None, writes=lambda rank: rank != 1):
    def save(engine):
        rank, site = engine.topology.rank, engine.topology.site.name
        state = {"optimizer": content(rank) if content else {"of": site, "moment": torch.arange(4.0) + step}}
        checkpoint.save(engine, folder, state, writes(rank))

    return on_ranks(save, sites, step)[0]


def load_state(folder, sites=SITES, weights=7):
    return on_ranks(lambda engine: checkpoint.load(engine, folder), sites, weights=weights)


def refusal(folder, **how) -> str:
    """The one line that every rank raises."""
    results, engines = load_state(folder, **how)
    assert all(engine.restored is None for engine in engines)
    return same_line(results)


@pytest.fixture
def saved(tmp_path):
    assert save_state(tmp_path) == [None] * 3
    return tmp_path


def test_every_site_gets_its_own_state_and_every_rank_its_outer_state(saved):
    results, engines = load_state(saved)
    assert [result["optimizer"]["of"] for result in results] == ["left", "left", "right"]
    assert [engine.restored["step"] for engine in engines] == [10] * 3
    assert [engine.restored["outer_state"][0].item() for engine in engines] == [0, 1, 2]


def test_a_later_save_forgets_the_earlier_one(saved):
    assert save_state(saved, step=20) == [None] * 3
    names = {path.name for path in (saved / "geo_accel").iterdir()}
    assert {name for name in names if "step-" in name and "step-20" not in name} == set()
    assert load_state(saved)[1][2].restored["step"] == 20


def test_site_files_that_were_exchanged_are_named(saved):
    left, right = (saved / "geo_accel" / f"{site}.step-10.pt" for site in ("left", "right"))
    spare = saved / "spare"
    left.rename(spare), right.rename(left), spare.rename(right)
    line = refusal(saved)
    assert "left.step-10.pt is right.step-10.pt, renamed" in line and "right.step-10.pt is left.step-10.pt" in line


def test_ranks_files_that_were_exchanged_are_named(saved):
    shutil.copy(saved / "geo_accel" / "left.1.json", saved / "geo_accel" / "right.0.json")
    assert "right (rank 2): right.0.json is left.1.json, renamed: were files exchanged?" in refusal(saved)


def test_ranks_are_known_by_site_and_place_wherever_a_job_counts_them(saved):
    moved = (Site("right", (0,)), Site("left", (1, 2)))
    results, engines = load_state(saved, sites=moved)
    assert [result["optimizer"]["of"] for result in results] == ["right", "left", "left"]
    assert [engine.restored["outer_state"][0].item() for engine in engines] == [2, 0, 1]


def test_a_plan_comes_back_by_the_names_of_its_sites(tmp_path):
    rule = Averaging(codec="topk", kept=(41, 400))
    made = choose_plan(Request(mode="stream", period=2, delay=1, codec="fp32"), [("layer", 8)], Members(2))

    def save(engine):
        engine.plan = replace(made, averaging=rule).for_members(Members.of(engine.topology))
        checkpoint.save(engine, tmp_path, {}, engine.topology.rank != 1)

    assert on_ranks(save, SITES, 10)[0] == [None] * 3
    _, engines = load_state(tmp_path, sites=(Site("right", (0,)), Site("left", (1, 2))))
    for engine in engines:
        assert engine.restored["plan"].sites == ("right", "left")
        assert engine.restored["plan"].averaging.kept == (400, 41)


def test_a_state_of_a_version_that_named_files_by_rank_is_refused(saved):
    for path in (saved / "geo_accel").glob("*.json"):
        path.unlink()
    for rank in range(3):
        (saved / "geo_accel" / f"rank-{rank}.json").write_text('{"version": 3}')
    line = refusal(saved)
    assert "left (rank 0): rank-0.json is of an earlier geo_accel, which named files by rank" in line
    assert "start afresh from its weights, move the folder" in line


def test_sites_of_other_names_do_not_start_afresh_unasked(saved):
    line = refusal(saved, sites=(Site("west", (0, 1)), Site("east", (2,))))
    assert "saved by the sites left (2 ranks), right (1 rank); this run has west (2 ranks), east (1 rank)" in line


def test_a_file_of_another_step_is_named(saved, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save_state(other, step=20)
    shutil.copy(other / "geo_accel" / "right.step-20.pt", saved / "geo_accel" / "right.step-10.pt")
    assert "right (rank 2): right.step-10.pt is damaged or of another checkpoint" in refusal(saved)


@pytest.mark.parametrize("name", ["left.1.json", "left.step-10.pt", "right.0.step-10.outer.safetensors"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[:60] + b"!" + data[61:]],
    ids=["empty", "cut off", "changed"],
)
def test_a_damaged_file_is_named_on_every_rank(saved, name, damage):
    path = saved / "geo_accel" / name
    path.write_bytes(damage(path.read_bytes()))
    line = refusal(saved)
    assert name in line and ("right (rank 2)" if "right" in name else "left (rank 1)") in line


@pytest.mark.parametrize("name", ["left.step-10.pt", "left.0.step-10.outer.safetensors"])
def test_a_missing_file_is_named_on_every_rank(saved, name):
    (saved / "geo_accel" / name).unlink()
    assert f"{name} is missing" in refusal(saved)


def test_an_unreadable_record_or_one_of_another_version_is_named(saved):
    path = saved / "geo_accel" / "right.0.json"
    whole = json.loads(path.read_text())
    for change, problem in [
        ("[]", "right.0.json is not readable"),
        (json.dumps(whole | {"version": 2}), "right.0.json has version 2, this geo_accel reads 4"),
        (json.dumps(whole | {"step": 11}), "right.0.json is damaged"),
        (json.dumps(whole | {"adopted": 3}), "right.0.json is damaged"),
    ]:
        path.write_text(change)
        line = refusal(saved)
        assert f"right (rank 2): {problem}" in line and "start afresh from its weights, move the folder" in line


def test_a_state_that_only_some_ranks_have(saved):
    (saved / "geo_accel" / "right.0.json").unlink()
    line = refusal(saved)
    assert "right (rank 2): None" in line and "start afresh" in line


@pytest.mark.parametrize("sites", [(Site("left", (0,)), Site("right", (1,))), (*SITES, Site("new", (3,)))])
def test_other_sites_are_told_how_to_start_afresh(saved, sites):
    line = refusal(saved, sites=sites)
    assert "saved by the sites left (2 ranks), right (1 rank); this run has left" in line
    assert f"move the folder {saved / 'geo_accel'} away on every machine" in line
    shutil.rmtree(saved / "geo_accel")
    results, engines = load_state(saved, sites=sites)
    assert results == [None] * len(engines) and all(engine.restored["plan"] is None for engine in engines)


def test_other_weights_are_refused(saved):
    assert "the weights of layer are not those of step 10" in refusal(saved, weights=8)


def test_without_a_sync_state_all_sites_must_have_loaded_the_same_weights(tmp_path):
    def load(engine):
        if engine.topology.rank == 2:
            engine.masters.checksums = lambda: {"layer": 8}
        return checkpoint.load(engine, tmp_path)

    results, _ = on_ranks(load)
    assert len({str(result) for result in results}) == 1
    assert "left (rank 0) and right (rank 2) have other weights of layer" in str(results[0])


def test_a_rank_that_cannot_write_is_named_on_all_and_the_last_state_stays_whole(saved):
    def save(engine):
        folder = saved
        if engine.topology.rank == 2:  # a disk of its own, which is none
            folder = saved / "file"
            folder.write_text("")
        checkpoint.save(engine, folder, {}, engine.topology.rank != 1)

    results, _ = on_ranks(save, step=20)
    assert all(isinstance(result, OSError) for result in results), results
    assert all(": right (rank 2): [Errno 20] Not a directory" in str(result) for result in results)
    results, engines = load_state(saved)
    assert [engine.restored["step"] for engine in engines] == [10] * 3


def test_what_could_not_be_read_back_safely_is_said_when_saving(tmp_path):
    results = save_state(tmp_path, content=lambda rank: SimpleNamespace() if rank == 2 else {})
    assert all(
        "right (rank 2): right.step-10.pt: this state holds Python objects" in str(result) for result in results
    )
    assert not list(tmp_path.glob("**/*.pt.*")) and not list(tmp_path.glob("**/*.json"))


def test_machines_of_one_site_that_share_a_disk_may_write_unlike_bytes(tmp_path):
    def content(rank):
        return {"of": f"rank {rank}"}

    assert save_state(tmp_path, content=content, writes=lambda rank: True) == [None] * 3
    results, _ = load_state(tmp_path)
    assert results[0] == results[1] and results[0]["optimizer"]["of"] in ("rank 0", "rank 1")
