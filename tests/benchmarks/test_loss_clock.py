# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The comparison with clocks: which jobs in which order, and what is made of their recordings."""

from dataclasses import replace

import pytest

from benchmarks.kit.texts import Text
from benchmarks.loss import material as material_module
from benchmarks.loss.__main__ import main
from benchmarks.loss.clock.course import HEADINGS, rows
from benchmarks.loss.clock.figures import efficiencies, reach, step_s, summarise, targets, whole_s
from benchmarks.loss.clock.jobs import (
    FACTORS,
    Job,
    best_rate,
    ddp,
    ddp_clock,
    geo,
    trainings,
    turns,
)
from benchmarks.loss.clock.running import Results as Folder
from benchmarks.loss.material import Material, make_material
from benchmarks.loss.setting import LARGE, LARGE_RATES


class Results:
    """Recordings of two sites, as `running.Results` keeps them; a step takes 3 s with DDP, 0.32 s with geo_accel."""

    setting = LARGE

    def __init__(self):
        self.made = {}

    def find(self, job):
        return self.made.get(job)

    def loss(self, job):
        return self.made[job]["recordings"][0]["eval_loss"] if job in self.made else None

    def add(self, job, loss=0.0, step=None):
        if job.method == "turns":
            bare, geo = ([0.30, 0.20, 0.28], [0.29, 0.20, 0.30]), ([0.31, 0.25, 0.31], [0.32, 0.25, 0.29])
            recordings = [{"bare": one, "geo": other} for one, other in zip(bare, geo, strict=True)]
            self.made[job] = {"recordings": recordings, "link_mbps": [], "date": "today"}
            return
        step = step or {"ddp": 3.0, "geo": 0.32}[job.method]
        plan = {"period": 4, "delay": 1, "codec": "int8", "reason": "r"}
        one = {"eval_loss": loss, "losses": [loss] * job.steps, "boundaries": [step * i for i in range(job.steps + 1)]}
        recordings = [{**one, "ended": step * job.steps + 2, "geo": {"plan": plan}} for _ in range(2)]
        self.made[job] = {"recordings": recordings, "link_mbps": [], "date": "today"}


@pytest.fixture
def results():
    """All runs of one seed: geo_accel is 1 % worse at DDP's steps, and as good between 1.1 and 1.2 times as many."""
    results = Results()
    results.add(ddp_clock())
    for number in range(3):
        results.add(turns(number))
    for rate, worse in zip(LARGE_RATES, (0.2, 0.0, 0.3), strict=True):
        results.add(ddp("finetune", rate, 0), 2.0 + worse)
        results.add(geo("finetune", rate, 0), 2.018 + worse)
    results.add(geo("finetune", LARGE_RATES[1], 0, 1.1), 2.01)
    results.add(geo("finetune", LARGE_RATES[1], 0, 1.2), 1.99)
    return results


def test_results_decide_about_further_jobs():
    results, made = Results(), []
    while len(made) < 60:
        missing = [job for job in trainings("finetune", results.loss, 2) if job not in results.made]
        if not missing:
            break
        made.append(missing[0])
        results.add(missing[0], 2.0 + abs(missing[0].rate - LARGE_RATES[1]))
    best = LARGE_RATES[1]
    assert made[:2] == [ddp_clock(), turns(0)]
    assert made[2:8] == [make("finetune", rate, 0) for rate in LARGE_RATES for make in (geo, ddp)]
    assert made[8:11] == [turns(1), *(geo("finetune", best, 0, factor) for factor in FACTORS)]
    repeated = [ddp("finetune", best, 1), *(geo("finetune", best, 1, factor) for factor in (1.0, *FACTORS))]
    assert made[11:] == [*repeated, turns(2)]


def test_where_one_does_best_at_an_end_both_try_further():
    results = Results()
    for rate in LARGE_RATES:
        results.add(ddp("finetune", rate, 0), 2.0 + abs(rate - LARGE_RATES[1]) * 1e3)
        results.add(geo("finetune", rate, 0), 2.0 + abs(rate - LARGE_RATES[2]) * 1e3)
    jobs = trainings("finetune", results.loss, 1)
    assert [job for job in jobs if job.rate == 2 * LARGE_RATES[2]] == [
        make("finetune", 2 * LARGE_RATES[2], 0) for make in (geo, ddp)
    ]


def test_keys_differ_where_jobs_do():
    jobs = [ddp("finetune", 1e-3, 0), geo("finetune", 1e-3, 0), geo("scratch", 1e-3, 0), turns(0), turns(1)]
    jobs += [geo("finetune", 1e-3, 1), geo("finetune", 2e-3, 0), geo("finetune", 1e-3, 0, 1.1)]
    assert len({job.key(LARGE, {"texts": "t"}) for job in jobs}) == len(jobs)
    assert jobs[0].key(LARGE, {"texts": "t"}) != jobs[0].key(LARGE, {"texts": "u"})


def test_times(results):
    job = geo("finetune", LARGE_RATES[0], 0)
    assert step_s(results.find(job), job) == pytest.approx(0.32)
    assert whole_s(results.find(job)) == pytest.approx(0.32 * LARGE.steps + 2)


def test_the_slowest_site_counts(results):
    job = ddp_clock()
    results.made[job]["recordings"][1]["boundaries"] = [4.0 * i for i in range(job.steps + 1)]
    assert step_s(results.find(job), job) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [((2.0, 1.9, 1.8), (10, 100)), ((2.2, 2.05, 1.95), (11.5, 115)), ((2.2, 2.1, 2.05), (None, None))],
)
def test_time_to_a_loss(losses, expected):
    assert reach(losses, (10.0, 11.0, 12.0), (100, 110, 120), 2.0) == pytest.approx(expected)


def test_efficiency_is_of_turns_of_the_same_minute_on_the_slowest_site(results):
    # Which site is the slower one may change from turn to turn.
    assert efficiencies(results.find(turns(0))) == pytest.approx([0.30 / 0.32, 0.20 / 0.25, 0.30 / 0.31])


def test_the_summary(results):
    summary = summarise("finetune", results, 1)
    assert best_rate(ddp, "finetune", results.loss) == LARGE_RATES[1]
    assert summary["learning_rates"] == {"ddp": LARGE_RATES[1], "geo": LARGE_RATES[1]}
    assert summary["gap"] == pytest.approx(0.009) and summary["gap_spread"] is None
    assert summary["efficiency"] == pytest.approx(0.30 / 0.32) and summary["ddp_step_s"] == pytest.approx(3.0)
    # Half way between 220 and 240 steps.
    (reached,) = summary["reached"]
    assert reached["steps"] == pytest.approx(230) and reached["seconds"] == pytest.approx(0.32 * 230 + 2)
    assert summary["speedup"] == pytest.approx(3.0 * 200 / (0.32 * 230 + 2))
    assert [held for *_, held in targets(summary)] == [True, False, False]
    table = rows(summary)
    assert [row[2] for row in table] == ["200", "200", "220", "240"] and all(
        len(row) == len(HEADINGS) for row in table
    )


def test_what_is_not_reached_is_said(results):
    for factor in FACTORS:
        results.add(geo("finetune", LARGE_RATES[1], 0, factor), 2.005)
    summary = summarise("finetune", results, 1)
    assert summary["speedup"] is None
    assert targets(summary)[2][2:] == ("not reached", False)


def test_nothing_measured_yet():
    summary = summarise("scratch", Results(), 1)
    assert summary["gap"] is None and [shown for _, _, shown, _ in targets(summary)] == ["not measured"] * 3
    assert rows(summary)[0][0] == "DDP"


def test_jobs_have_names_for_people():
    assert turns(0).name == "efficiency, run 1"
    assert geo("finetune", 1e-3, 0, 1.1).name == "geo_accel, learning rate 0.001, seed 0, 220 steps"
    assert (
        Job(method="ddp", place="lab", task="scratch", rate=1e-3, seed=0, steps=12).name == "DDP's step time, 12 steps"
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.lab
def test_a_tiny_model_in_the_lab_and_on_loopback(tmp_path, monkeypatch):
    few = [f"The quick brown fox jumps over the lazy dog; number {number} of them is slow." for number in range(99)]
    monkeypatch.setattr(material_module, "load", lambda kind: Text(train=few, held_out=few[:9], earlier=few))
    tiny = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 300, "batch": 2, "steps": 30, "evaluation_blocks": 8}
    setting = replace(LARGE, **tiny, pretraining_steps=3, pretraining_batch=2)
    material = make_material(setting, tmp_path)
    results = Folder(tmp_path / "clock", setting, material, Material.read(material).digests)
    seen = []
    jobs = [
        replace(job, steps=setting.steps) for job in (turns(0), geo("finetune", 1e-3, 0), ddp("finetune", 1e-3, 0))
    ]
    for job in jobs:
        results.run(job, seen.append)
    # Turns end with the last whole one; on loopback nothing is followed.
    assert setting.steps < sum(seen) <= 2 * setting.steps
    paired, trained, reference = map(results.find, jobs)
    assert 0 < step_s(trained, jobs[1]) < whole_s(trained) < 60
    assert all(0 < share < 10 for share in efficiencies(paired)) and len(efficiencies(paired)) >= 1
    assert trained["recordings"][0]["geo"]["plan"]["period"] >= 1
    assert 3 < results.loss(jobs[2]) < 8 and 3 < results.loss(jobs[1]) < 8
    assert len(trained["link_mbps"]) == 2 and reference["link_mbps"] == []


def test_the_lab_has_no_accelerator(capsys, tmp_path):
    assert main(["--only", "clock", "--device", "cuda", "--results", str(tmp_path)]) == 1
    assert (
        "loss: --only clock or clock-scratch: runs in the lab, on CPUs; leave --device out." in capsys.readouterr().err
    )
