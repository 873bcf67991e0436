# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Gathers through the job's store: who is late is named, and nobody asks the store more often than needed."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, PrefixStore

from geo_accel.transport import store
from geo_accel.transport.errors import OutOfStepError, SiteLostError
from geo_accel.transport.store import ControlPlane


@pytest.fixture
def planes(monkeypatch):
    shared = HashStore()
    monkeypatch.setattr(store, "default_store", lambda: shared)

    def make(ranks, deadline_s=20.0):
        monkeypatch.setattr(store, "_control_planes", 0)
        made = []
        for rank in range(ranks):
            store._control_planes = 0  # as in processes of their own
            made.append(ControlPlane(rank, ranks, deadline_s))
        return made

    return make


def on_all(planes, work):
    with ThreadPoolExecutor(len(planes)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(work, plane) for plane in planes]]


def test_everyone_hears_everyone_in_the_order_of_ranks(planes):
    def work(plane):
        return [plane.gather("testing", [plane._rank, number]) for number in range(5)]

    for heard in on_all(planes(3), work):
        assert heard == [[[rank, number] for rank in range(3)] for number in range(5)]


def test_ranks_that_are_at_unlike_points_hear_it_in_the_same_words(planes):
    """They used to take one another's messages for answers to what they had asked."""

    def work(plane):
        with pytest.raises(OutOfStepError) as caught:
            plane.gather("comparing checkpoints" if plane._rank == 1 else "planning", None)
        return str(caught.value)

    said = on_all(planes(3), work)
    assert len(set(said)) == 1 and said[0].startswith("rank 0 is planning while rank 1 is comparing checkpoints: ")


class Counted:
    """A store that counts the requests whose answer is waited for: each is a round trip of the network."""

    def __init__(self, store):
        self._store, self.answers = store, 0

    def __getattr__(self, name):
        if name in ("check", "get", "wait", "compare_set", "add"):
            self.answers += 1
        if name == "multi_get":
            self.answers += 2  # torch's waits, then gets
        return getattr(self._store, name)


def test_a_gather_takes_two_round_trips(planes):
    first, second = planes(2)
    second._store._store = counted = Counted(second._store._store)

    def work(plane):
        for _ in range(10):
            # Whoever has to wait must not ask again and again.
            time.sleep(0.02 if plane is first else 0)
            plane.gather("testing", None)

    on_all([first, second], work)
    assert counted.answers == 20


def test_rank_0_decides_for_all_and_its_refusal_is_everybody_s(planes):
    def decide(messages):
        assert messages == [0, 10, 20]
        return sum(messages)

    def refuse(messages):
        raise ValueError("no plan")

    def work(plane):
        decided = plane.consult("testing", 10 * plane._rank, decide)
        with pytest.raises(ValueError, match="no plan"):
            plane.consult("testing", None, refuse)
        return decided, plane.broadcast("testing", lambda: "after that")

    assert on_all(planes(3), work) == [(30, "after that")] * 3


def test_another_plane_is_not_kept_waiting(planes):
    first, second = planes(2)
    others = [first.another(), second.another()]
    for number, plane in enumerate(others):  # of the same generation on every rank
        plane._store._store = PrefixStore("other", store.default_store())
        assert plane._rank == number
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.gather, "waiting", 1)
        on_all(others, lambda plane: plane.gather("quick", 2))
        assert not waiting.done()
        second.gather("waiting", 3)
        assert waiting.result(timeout=10) == [1, 3]


@pytest.mark.parametrize("patience_s", [10.0, 0.2])
@pytest.mark.parametrize("who", [0, 2])
def test_the_late_are_named_with_the_time_waited(planes, monkeypatch, who, patience_s):
    monkeypatch.setattr(store, "PATIENCE_S", patience_s)
    made = planes(3, deadline_s=0.6)
    made[2 - who]._store.set(f"1/{2 - who}", "null")
    start = time.monotonic()
    with pytest.raises(SiteLostError, match=r"testing: waited 1 s \(resilience.patience_s\) for rank 1; check"):
        made[who].gather("testing", None)
    assert time.monotonic() - start < 3


def test_whoever_comes_after_the_patience_is_still_heard(planes, monkeypatch):
    monkeypatch.setattr(store, "PATIENCE_S", 0.1)

    def work(plane):
        time.sleep(0.4 * plane._rank)
        return plane.gather("testing", plane._rank)

    assert on_all(planes(2), work) == [[0, 1], [0, 1]]


def test_a_store_that_is_gone_is_rank_0_lost(planes):
    _, second = planes(2)

    class Gone:
        def set(self, *_):
            pass

        def set_timeout(self, *_):
            pass

        def multi_get(self, *_):
            raise RuntimeError("Connection reset by peer\nmore")

    second._store._store = Gone()
    with pytest.raises(SiteLostError, match=r"testing: lost rank 0, which holds the job's store, after 0 s \(Conn"):
        second.gather("testing", None)
