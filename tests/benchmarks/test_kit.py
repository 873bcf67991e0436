# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The kit: jobs and their keys, which run comes next, tables, and a tiny campaign with real processes."""

import json
import math
from dataclasses import asdict, replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.kit import material, study
from benchmarks.kit.job import LARGE, SMALL, Job, Setting, window
from benchmarks.kit.report import Table
from benchmarks.kit.runner import RunFailed
from benchmarks.kit.store import Store
from benchmarks.kit.study import best_rate, grid, run_jobs, search
from benchmarks.kit.texts import divide, without_repeats

JOB = Job(setting=SMALL, method="ddp", rate=1e-3, steps=8, place="loopback")
BASE = (1e-3, 2e-3, 4e-3)


def ddp(rate, seed):
    return replace(JOB, rate=rate, seed=seed)


def geo(rate, seed):
    return replace(ddp(rate, seed), method="geo", config={"sync": {"period": 8}})


def result(loss):
    return {"recordings": [{"loss": loss}] * 2}


class TestJob:
    def test_a_key_holds_what_decides_the_result(self):
        changes = {"rate": 2e-3, "seed": 1, "pretrained": True, "setting": LARGE, "turns": 2, "mbps": (50.0,)}
        changes |= {"config": {"sync": {"period": 4}}}
        jobs = [JOB, *(replace(JOB, **{name: value}) for name, value in changes.items())]
        assert len({job.key for job in jobs}) == len(jobs)
        assert len({job.material for job in jobs}) == 2  # another model has other first weights

    @pytest.mark.parametrize("job", [JOB, geo(1e-3, 2), replace(JOB, turns=3, others=("ddp",), mbps=(1, 2))])
    def test_a_worker_reads_what_was_written(self, job):
        read = Job.read(json.loads(json.dumps(asdict(job))))
        assert read.key == job.key and read.methods_of(0) == job.methods_of(0)

    @given(warmup=st.integers(0, 50), adopted=st.integers(1, 30), period=st.integers(1, 40))
    def test_a_window_begins_with_a_period_of_the_plan_soon_after_the_warm_up(self, warmup, adopted, period):
        first, last = window(warmup, adopted, period)
        boundary = first - 1
        assert last - boundary == 2 * period and (boundary - adopted) % period == 0
        assert max(warmup, adopted) <= boundary < max(warmup, adopted) + period

    def test_the_pair_changes_places_and_others_join_now_and_then(self):
        turns = [replace(JOB, others=("local_sgd", "ddp"), others_every=4).methods_of(turn) for turn in range(6)]
        assert list(map(len, turns)) == [4, 2, 2, 2, 4, 2] and turns[1] == turns[2][::-1]


class TestRates:
    def test_every_rate_of_the_first_seed_then_the_other_seeds_at_the_best(self):
        table, made = {}, []
        while missing := [job for job in search([ddp, geo], BASE, 3, table.get) if job not in table]:
            job = missing[0]  # in the middle for both; the second method is always a little worse
            table[job] = 2 + abs(math.log2(job.rate / BASE[1])) / 10 + (job.method == "geo") / 100
            made.append((job.method, job.rate, job.seed))
        first = [(method, rate, 0) for method in ("ddp", "geo") for rate in BASE]
        assert made == first + [(method, BASE[1], seed) for method in ("ddp", "geo") for seed in (1, 2)]

    @pytest.mark.parametrize(("better", "added"), [(BASE[0], BASE[0] / 2), (BASE[-1], BASE[-1] * 2)])
    def test_one_method_that_does_best_at_an_end_widens_the_grid_for_all(self, better, added):
        table = {ddp(rate, 0): 2.0 + (rate != BASE[1]) / 10 for rate in BASE}
        table |= {geo(rate, 0): 2.0 + abs(math.log2(rate / better)) / 10 for rate in BASE}
        assert grid([ddp, geo], BASE, table.get) == (*BASE, added)
        missing = [job for job in search([ddp, geo], BASE, 3, table.get) if job not in table]
        assert missing == [ddp(added, 0), geo(added, 0)]

    def test_better_by_a_hair_widens_nothing_and_what_diverges_everywhere_is_not_repeated(self):
        table = {ddp(rate, 0): 2.0 for rate in BASE} | {ddp(BASE[-1], 0): 1.999}
        assert grid([ddp], BASE, table.get) == BASE
        table = {geo(rate, 0): math.inf for rate in BASE}
        assert best_rate(geo, BASE, table.get) is None
        assert search([geo], BASE, 3, table.get) == list(table)


def test_results_are_found_again_and_what_diverged_is_worse_than_any(tmp_path):
    store = Store(tmp_path)
    assert store.find(JOB) is None and store.loss(JOB) is None
    store.save(JOB, result(2.5))
    store.save(geo(1e-3, 0), result(None))
    again = Store(tmp_path)
    assert again.loss(JOB) == 2.5 and again.loss(geo(1e-3, 0)) == math.inf
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_what_no_row_has_is_not_printed():
    columns = {"case": "{name}", "loss": "{loss:.1f}", "± loss": "{spread:.1f}"}
    table = Table("t", columns, [{"name": "a", "loss": 1.0, "spread": None}, {"name": "b"}])
    assert table.markdown() == "| case | loss |\n| --- | --- |\n| a | 1.0 |\n| b |  |\n"
    assert len(table.rich().columns) == 2


class TestTexts:
    def test_whole_documents_are_held_out_and_halves_are_even(self):
        documents = [f"{number:03d}" * 50 for number in range(200)]
        text = divide(documents, halves=True)
        assert sorted(chain(*text.values())) == documents
        assert 0.05 < len(text["held_out"]) / 200 <= 0.08
        assert abs(len(text["train"]) - len(text["earlier"])) <= 1
        assert not divide(documents, halves=False)["earlier"]

    def test_paragraphs_count_once(self):
        licence = "Permission is hereby granted, free of charge, to any person obtaining a copy of this."
        found = without_repeats([f"one\n\n{licence}", f"{licence}\n\ntwo", licence])
        assert list(found) == [f"one\n\n{licence}", "two"]


def test_no_batch_is_started_that_would_end_after_the_time(tmp_path, monkeypatch):
    seconds = [0.0]

    def run_batch(jobs, store, **_):
        seconds[0] += 100
        for job in jobs:
            store.save(job, result(2.0))

    monkeypatch.setattr(study, "run_batch", run_batch)
    monkeypatch.setattr(material, "make_material", lambda *_: None)
    monkeypatch.setattr(study.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(study, "_BATCH", 2)
    # More jobs than two batches hold, each of which takes 100 s.
    jobs = [ddp(1e-3, seed) for seed in range(9)]
    assert not run_jobs("", lambda _: jobs, Store(tmp_path), Console(quiet=True), minutes=4.5) and seconds[0] == 200


@pytest.mark.slow
def test_a_tiny_campaign(tmp_path, monkeypatch, forked_sites):
    few = [f"The quick brown fox jumps over the lazy dog; number {number} of them is slow." for number in range(99)]
    monkeypatch.setattr(material, "load", lambda kind: {"train": few, "held_out": few[:9], "earlier": few})
    tiny = Setting(layers=1, width=32, heads=2, batch=2, warmup=2, pretraining_steps=4, evaluation_blocks=8)
    job = replace(JOB, setting=tiny, pretrained=True, kinds=("documentation", "packages"), own=True)
    config = {"sync": {"period": 2, "delay": 1, "schedule": "stream"}, "compression": {"codec": "int8"}}
    local, synced = replace(job, method="local_sgd", period=2), replace(job, method="geo", config=config)
    apart = replace(job, method="none")
    turns = replace(synced, method="turns", turns=2, others=("ddp", "local_sgd"), shared=False)
    refused = replace(synced, config={"compression": {"codec": "int9"}})
    jobs, store = [job, local, synced, apart, turns, job, refused], Store(tmp_path)
    with pytest.raises(RunFailed, match="int9"):
        run_jobs("tiny", lambda _: jobs, store, Console(quiet=True))
    # What was finished before is kept.
    for one in (job, local, synced, apart):
        recordings = store.find(one)["recordings"]
        # Bytes as good as guessed: the model has hardly learned, and is not broken.
        assert 3.0 < store.loss(one) < 6.0 and recordings[0]["weights"] == recordings[1]["weights"]
        assert [len(recordings[0][name]) for name in ("losses", "boundaries")] == [job.steps, job.steps + 1]
    assert store.find(synced)["recordings"][0]["geo"]["wan_bytes"] > 0
    seen = store.find(turns)["recordings"][0]["turns"]
    assert [list(turn) for turn in seen] == [turns.methods_of(turn) for turn in range(2)]
    monkeypatch.setattr(study, "run_batch", lambda *_, **__: pytest.fail("a finished run was made again"))
    assert run_jobs("tiny", lambda _: jobs[:-1], Store(tmp_path), Console(quiet=True))
