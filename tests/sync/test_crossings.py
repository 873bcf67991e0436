# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The watch names what else crosses in training steps, once, and its waits are no computing."""

import json
import time

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.distributed import ProcessGroup, Work

from geo_accel.profile.link import Link
from geo_accel.sync import collectives_seam as seam
from geo_accel.sync import crossings
from geo_accel.sync.crossings import Crossings
from geo_accel.topology import Site, Topology
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.gloo import OUR_GROUPS
from tests.workers.launch import run_workers

TWO = Topology((Site("here", (0,)), Site("there", (1,))), rank=0)
LINK = Link(latency_s=0.025, seconds_per_byte=1e-7)


@pytest.fixture
def watch(monkeypatch):
    """Over a world of one rank, whose groups are taken for ones that span sites."""
    monkeypatch.setattr(Topology, "crosses", lambda self, ranks: True)
    monkeypatch.setattr(crossings, "_told", set())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    watch = Crossings(TWO)
    yield watch
    watch.remove()
    dist.destroy_process_group()


def step(watch, *, gathers=1, late_s=0.0):
    watch.start_step()
    for _ in range(gathers):
        dist.all_reduce(torch.ones(2))
    watch._waited_s += late_s
    return watch.end_step(LINK)


def test_what_crosses_is_told_once_with_place_and_number(watch, caplog):
    for _ in range(3 * crossings.REPORT_STEPS):
        step(watch, gathers=2)
    (told,) = caplog.messages
    assert (
        "allreduce at " in told
        and "test_crossings:" in told
        and "(step), 2 per step" in told
        and "at a latency of 25 ms" in told
    )


def test_steps_that_cross_nothing_say_nothing(watch, caplog):
    for _ in range(2 * crossings.REPORT_STEPS):
        assert step(watch, gathers=0) == 0
    assert caplog.messages == []


def test_waits_are_returned_and_counted_up(watch):
    assert step(watch, late_s=0.5) == pytest.approx(0.5, abs=0.1) == watch.waited()


def test_what_cpp_starts_counts_an_all_reduce_each(watch, caplog):
    for _ in range(crossings.REPORT_STEPS):
        watch.start_step()
        for _ in range(3):
            functional.all_reduce(torch.ones(2), "sum", dist.group.WORLD).sum()
        assert watch.end_step(LINK) == pytest.approx(3 * 0.05)
    (told,) = caplog.messages
    assert "started in C++" in told and "3 per step" in told and "0.15 s per step" in told


def test_our_own_groups_and_dropped_steps_do_not_count(watch):
    ours = dist.new_group([0], group_desc=OUR_GROUPS)
    watch.start_step()
    dist.all_reduce(torch.ones(2), group=ours)
    assert watch.end_step(LINK) == watch.waited() == 0
    watch.start_step()
    watch.drop_step()
    dist.all_reduce(torch.ones(2))
    assert watch.end_step(LINK) == 0


def test_what_a_loop_gathers_before_it_evaluates_is_not_in_a_step(watch, caplog):
    for _ in range(crossings.REPORT_STEPS):
        step(watch, gathers=0)
    watch.start_step()
    dist.all_reduce(torch.ones(2))  # the mean training loss, to be shown beside what is evaluated
    watch.drop_step()
    watch.remove()
    assert caplog.messages == []


def test_torch_gets_its_methods_back_with_the_last_watch(watch):
    second, replaced = Crossings(TWO), Work.wait
    second.remove()
    assert Work.wait is replaced
    watch.remove()
    assert Work.wait is not replaced and not hasattr(ProcessGroup.allreduce, "__wrapped__")


@pytest.mark.parametrize("words, lost", [("Connection closed by peer [10.0.0.2]:3001", True), ("invalid size", False)])
def test_a_peer_that_is_missing_is_a_lost_site(watch, words, lost):
    error = RuntimeError(words)
    dist.distributed_c10d._world.pg_group_ranks[dist.group.WORLD] = {0: 0, 1: 1}
    told = watch.failed(dist.group.WORLD, "allgather at script.py:3 (main)", error)
    assert isinstance(told, SiteLostError) is lost
    assert not lost or "site there is gone or silent: allgather at script.py:3" in str(told)
    assert lost or told is error


def test_torch_still_has_what_the_seam_leans_on(watch):
    assert {"allreduce", "allgather", "broadcast", "barrier", "send", "recv"} <= set(seam.CALLS)
    assert all(hasattr(ProcessGroup, name) for name in ("allreduce", "allgather", "broadcast", "barrier", "reduce"))
    before = seam.issued(dist.group.WORLD)
    dist.all_reduce(torch.ones(1))
    assert seam.issued(dist.group.WORLD) == before + 1 and dist.group.WORLD in list(seam.groups())


@pytest.mark.alone
def test_the_watch_costs_microseconds(watch):
    rounds = 2000
    start = time.perf_counter()
    for _ in range(rounds):
        watch.start_step()
        watch.end_step(LINK)
    assert (time.perf_counter() - start) / rounds < 100e-6  # 0.2 % of a step of 50 ms


def test_a_script_that_gathers_is_told_and_a_lost_site_is_named_there_too(tmp_path):
    command = ["tests.workers.crossing_worker", str(tmp_path), "gathering", "losing"]
    finished = run_workers(command, timeout_s=120)
    assert [one.returncode for one in finished] == [0, 9], finished[0].output[-3000:]
    record = json.loads((tmp_path / "gathering.rank-0.json").read_text())
    assert record["exposed_s"] > 13 * 0.08 and record["computing_s"] < 0.08 and record["efficiency"] < 0.7
    (told,) = [line for line in record["said"] if "besides the rounds" in line]
    assert "allgather at crossing_worker.py:" in told and "1 per step; collectives started in C++" in told
    lost = json.loads((tmp_path / "losing.rank-0.json").read_text())["said"]
    assert "site site1 is gone or silent: allgather at" in lost and "Saved site0's model and optimizer" in lost
    assert (tmp_path / "survivor-site0").exists()


def test_torch_has_its_own_methods_back_when_nobody_listens():
    before = {name: vars(ProcessGroup)[name] for name in seam.CALLS if name in vars(ProcessGroup)}
    listener = object()
    seam.listen(listener)
    assert all(vars(ProcessGroup)[name] is not method for name, method in before.items())
    seam.stop_listening(listener)
    assert all(vars(ProcessGroup)[name] is method for name, method in before.items()) and len(before) > 15
