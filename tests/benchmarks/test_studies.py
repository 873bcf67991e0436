# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From results whose answers are known to the figures of each study: losses, penalties, clocks, links, predictions."""

import json

import pytest
import torch

from benchmarks import clock, codecs, loss, prediction, turns, unequal
from benchmarks.kit.figures import loss_curve, reach, step_s, whole_s
from benchmarks.kit.report import Table
from benchmarks.kit.store import Store
from benchmarks.penalty import penalty_table
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.members import Members
from geo_accel.plan.request import Request
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, UnitProfile

PARTS = loss.parts()


class Results(Store):
    """A store that keeps nothing on disk."""

    def __init__(self):
        self.made = {}

    def find(self, job):
        return self.made.get(job)

    def add(self, job, loss, step=1.0, **more):
        boundaries = [5 + step * k for k in range(job.steps + 1)]
        one = {"loss": loss, "losses": [loss] * job.steps, "boundaries": boundaries, "parameters": 500}
        one |= {"ended": boundaries[-1] + 2, **more}
        self.made[job] = {"recordings": [one, one]}

    def add_turns(self, job, *sites, sent=0, **more):
        """`sites` has by site and turn the seconds of a step by method."""
        rest = {"sent": sent, "waited_s": 0.002, "peak": 0}
        turns = [[{method: {"step_s": s, **rest} for method, s in turn.items()} for turn in site] for site in sites]
        self.made[job] = {"recordings": [{"turns": some, **more} for some in turns]}


class TestLoss:
    @pytest.fixture
    def results(self):
        """Eight steps apart and at another rate than DDP's best, int8 is worse by 1, 2 and 3 %."""
        results, (ddp, eight) = Results(), case(PARTS["finetune"], "DDP", "geo H=8 int8")
        for seed, value in enumerate((2.0, 2.2, 1.8)):
            results.add(ddp.at(4e-3, seed), value)
            results.add(eight.at(2e-3, seed), value * (1.01 + 0.01 * seed), geo={"wan_bytes": 240_000})
        results.add(ddp.at(2e-3, 0), 2.5)
        results.add(eight.at(4e-3, 0), 2.6)
        return results

    def test_names_and_jobs_are_unique_and_every_part_has_its_reference(self):
        cases = [case for part in PARTS.values() for case in part.cases]
        names = {(case.name, case.job.setting, case.job.pretrained) for case in cases}
        assert len({case.job.key for case in cases}) == len(names)
        for part in PARTS.values():
            assert [case.name for case in part.cases].count("DDP") == 1
            assert len({case.name for case in part.cases}) == len(part.cases)
        one = "geo H=16 int8, outer (0.8, 0.6)"
        assert case(PARTS["finetune"], one)[0].kind == (16, "int8", 1, (0.8, 0.6), None)

    def test_each_is_taken_at_its_own_best_rate_and_compared_by_seed(self, results):
        reference, row = loss.rows_of(PARTS["finetune"], results)
        assert (reference["rate"], reference["loss"], reference["gap"]) == (4e-3, pytest.approx(2.0), None)
        table = Table("", loss.COLUMNS, [reference, row])
        assert table.rows[1] == ["geo H=8 int8", "0.002", "2.0393", "0.1957", "+2.00%", "1.00%", "3", "1"]
        # What a single seed cannot show is not printed.
        results.made = {job: made for job, made in results.made.items() if not job.seed}
        single = Table("", loss.COLUMNS, loss.rows_of(PARTS["finetune"], results))
        assert single.headings == ["case", "rate", "loss", "gap", "seeds", "kB/step"]
        results.add(case(PARTS["finetune"], "geo H=4 int8")[0].at(2e-3, 0), None)
        remarks = {row["name"]: row["remark"] for row in loss.rows_of(PARTS["finetune"], results)}
        assert remarks == {"DDP": None, "geo H=8 int8": None, "geo H=4 int8": "diverged at every rate"}

    def test_the_penalty_table_has_gaps_and_what_codecs_and_delays_add(self, results, tmp_path):
        names = ("int4", "bf16", "topk 1 %", "int8, delay 4")
        codecs = case(PARTS["codecs"], *(f"geo H=8 {name}" for name in names))
        made = dict(zip(codecs, (1.05, 1.0, 1.1, 1.06), strict=True))
        made[case(PARTS["finetune"], "geo H=4 int8, outer (0.9, 0.3)")[0]] = 1.015
        for one, factor in made.items():
            results.add(one.at(2e-3, 0), 2.0 * factor, geo={"wan_bytes": 1})
        large = case(PARTS["large"], "DDP", "geo H=12 int8", "geo H=12 int8, outer (0.8, 0.6)")
        for one, value in zip(large, (1.0, 1.1, 1.21), strict=True):
            for seed in range(2):
                results.add(one.at(1e-3, seed), value, geo={"wan_bytes": 1})
        rows = {name: loss.rows_of(part, results) for name, part in PARTS.items()}
        assert loss.draw(tmp_path, rows, results)[0].stat().st_size > 10_000
        table = penalty_table(rows, {"date": "today"})
        assert table["version"] == 2 and table["provenance"] == {"date": "today"}
        four, eight = table["base"]
        assert (four["sites"], four["period"], four["outer"]) == (2, 4, {"lr": 0.9, "momentum": 0.3})
        assert (four["penalty"], four["spread"], four["seeds"]) == (pytest.approx(0.015), None, 1)
        assert eight["penalty"] == pytest.approx(0.02) and eight["seeds"] == 3
        # bf16 came out better than int8, which is noise; int4 beside int8 with the same seed, whose gap is 1 %.
        assert table["codec"]["bf16"] == table["codec"]["int8"] == 0
        assert table["codec"]["int4"] == pytest.approx(0.04)
        assert table["codec"]["topk"] == [[0.01, pytest.approx(0.09)]]
        assert table["delay"] == [[1 / 8, 0], [0.5, pytest.approx(0.05)]]
        (beside,) = table["large"]
        assert (beside["period"], beside["outer"]["lr"], beside["seeds"]) == (12, 0.8, 2)
        assert beside["beside_mean"] == pytest.approx(0.1)
        with pytest.raises(ValueError, match="--only finetune codecs"):
            penalty_table({}, {})


def case(part, *names):
    found = {case.name: case for case in part.cases}
    return [found[name] for name in names]


class TestClock:
    @pytest.fixture
    def results(self):
        """All runs of one seed: geo_accel is 1 % worse at DDP's steps, and as good at 1.1 to 1.2 times as many."""
        results = Results()
        sites = [[(0.30, 0.31), (0.20, 0.25), (0.28, 0.31)], [(0.29, 0.32), (0.20, 0.25), (0.30, 0.29)]]
        for job in clock.TURNS:
            results.add_turns(job, *([{"none": n, "geo": g, "ddp": 3.0} for n, g in site] for site in sites))
        geo = {"geo": {"plan": {"period": 4}}}
        for rate, worse in zip(clock.RATES, (0.2, 0.0, 0.3), strict=True):
            results.add(clock.ddp(rate, 0), 2.0 + worse)
            results.add(clock.geo(rate, 0), 2.018 + worse, step=0.32, **geo)
        for factor, value in ((1.1, 2.01), (1.2, 1.99)):
            results.add(clock.geo(clock.RATES[1], 0, factor), value, step=0.32, **geo)
        return results

    def test_results_decide_about_further_jobs(self):
        results, made = Results(), []
        while missing := [job for job in clock.jobs(results) if job not in results.made]:
            made.append(missing[0])
            results.add(missing[0], 2.0 + abs(missing[0].rate - clock.RATES[1]))
        assert made[0] == clock.TURNS[0] and made[-1] == clock.TURNS[2]
        best = clock.RATES[1]
        assert {clock.geo(best, seed, factor) for seed in range(3) for factor in clock.FACTORS} <= set(made)
        assert {clock.ddp(best, seed) for seed in range(3)} <= set(made) and len(made) == 19

    def test_the_figures(self, results, tmp_path):
        found = clock.figures(results)
        assert found["rates"] == {"ddp": clock.RATES[1], "geo": clock.RATES[1]}
        assert found["gap"] == pytest.approx(0.009) and found["gap_spread"] is None
        # Turn by turn, on the slowest site, which may change from turn to turn.
        assert found["efficiency"] == pytest.approx(0.30 / 0.32) and found["ddp_step_s"] == pytest.approx(3.0)
        # Half way between 220 and 240 steps, and two seconds for the average.
        assert found["to_target_s"][0] == pytest.approx(0.32 * 230 + 2)
        assert found["speedup"] == pytest.approx(3.0 * 200 / (0.32 * 230 + 2))
        table, goals = clock.tables(found)
        assert [row[2] for row in table.rows] == ["200", "200", "220", "240"]
        assert [row[-1] for row in goals.rows] == ["yes", "NO", "NO"]
        assert clock.draw(tmp_path, found, results)[0].stat().st_size > 10_000

    def test_what_is_not_reached_or_not_measured_is_not_made_up(self, results, tmp_path):
        for factor in clock.FACTORS[1:]:
            results.made[clock.geo(clock.RATES[1], 0, factor)]["recordings"][0]["loss"] = 2.005
        assert clock.figures(results)["speedup"] == 0.0
        nothing = clock.figures(Results())
        table, goals = clock.tables(nothing)
        assert table.rows[0][0] == "DDP" and goals.rows == [] and clock.draw(tmp_path, nothing, Results()) == []


class TestFigures:
    def test_the_slowest_site_counts(self):
        quick = {"boundaries": [0.5 * k for k in range(11)], "ended": 7.0}
        slow = quick | {"boundaries": [1.0, *(3.0 + k for k in range(10))], "ended": 14.0}
        assert step_s([quick, slow], warmup=1) == pytest.approx(1.0)
        assert whole_s([quick, slow]) == 14.0

    @pytest.mark.parametrize(("target", "seconds"), [(2.25, 8.75), (2.0, 10), (3.5, 5.0), (1.9, None)])
    def test_reach_goes_in_straight_lines_between_runs(self, target, seconds):
        assert reach([(5.0, 3.0), (10.0, 2.0)], target) == seconds

    def test_a_loss_curve_is_a_mean_over_sites_and_last_steps(self):
        sites = [{"boundaries": [0, 1, 2], "losses": [4.0, 2.0]}, {"boundaries": [0, 2, 4], "losses": [4.0, 4.0]}]
        assert loss_curve(sites, width=2) == [(2, 4.0), (4, 3.5)]


PLAN = choose_plan(
    Request(mode="stream", period=2, delay=1, codec="bf16"), [("head", 500_000), ("tail", 500_000)], Members(2)
)


def test_unequal_time_to_target_is_that_to_the_baselines_loss(tmp_path):
    """Losses fall from 3 by a hundredth a step, twelve times as fast with int8, slowly with int4."""
    results, slope = Results(), dict.fromkeys(unequal.METHODS, 0.01) | {"int8": 0.12, "int4": 0.001, "auto": 0.06}
    plan = json.loads(PLAN.to_json()) | {"exchange": "hub", "hub": 1}
    for job in unequal.jobs("slow uplinks", 600):
        name = next(name for name, config in unequal.METHODS.items() if config == job.config)
        results.add(job, 3 - slope[name] * job.steps, step=0.5 if name == "int8" else 1.0, geo={"plan": plan})
    assert unequal.figures("slow both ways", 600, results) is None
    rows = {row["method"]: row for row in unequal.figures("slow uplinks", 600, results)}
    baseline = rows[unequal.BASELINE]
    assert baseline["to_target_s"] == [602] and baseline["speedup"] == 1
    assert rows["int8"]["speedup"] == pytest.approx(602 / 27) and rows["int8"]["step_s"] == pytest.approx(0.5)
    assert rows["int4"]["to_target"] == "never never never" and rows["int4"]["speedup"] is None
    assert baseline["loss"] == pytest.approx(2) and rows["auto"]["loss"] == pytest.approx(-3)
    assert rows["auto"]["exchange"] == "hub" and rows["auto"]["sends"] == "bf16"
    panels = {name: list(rows.values()) for name in ("slow", "slower")}
    assert unequal.draw(tmp_path, panels, results)[0].stat().st_size > 10_000


def test_the_slowest_site_is_measured_and_the_link_predicts():
    # 1 MB a step in bf16 over 8 Mbit/s with period 2: the link needs 1 s per step, whatever computing takes.
    units = tuple(UnitProfile(name=name, numel=numel, backward_s=0.02) for name, numel in PLAN.units)
    links = tuple((name, Link.of(mbps=8, latency_ms=0)) for name in ("site0", "site1"))
    profile = Profile(units=units, step_s=0.1, after_s=0.01, links=links)
    jobs, results = prediction.jobs([8.0], [2]), Results()
    geo = {"plan": json.loads(PLAN.to_json()), "profile": json.loads(profile.to_json())}
    results.add_turns(jobs[1], [{"none": 0.2, "geo": 0.9}] * 3, [{"none": 0.1, "geo": 1.25}] * 3, geo=geo)
    (row,) = prediction.rows(jobs, results)
    assert row["predicted_s"] == pytest.approx(1.0) and row["measured_s"] == pytest.approx(1.25)
    assert row["error"] == pytest.approx(-0.2) and row["compute_s"] == pytest.approx(0.2)
    table, goals = prediction.tables([row])
    assert table.rows[0][1:] == ["stream / stream", "2", "0.200", "1.000", "1.250", "-20.0%"]
    assert [line[-1] for line in goals.rows] == ["NO", "NO"]


def test_each_turn_is_compared_with_itself_on_the_slower_site():
    """A machine that gets slower in the course of the run changes nothing, nor does one disturbed turn."""
    moods, plan = (0.3, 0.33, 0.4, 0.45), {"period": 9, "codec": "int4", "delay": 1, "reason": "r"}
    fast = [{"none": 0.95 * mood, "geo": 0.9 * mood} for mood in moods] + [{"none": 0.3, "geo": 1.0}]
    slow = [{"none": 0.9 * mood, "geo": mood} for mood in moods] + [{"none": 0.3, "geo": 9.0}]
    results, (both, alone) = Results(), turns.JOBS["zero"]
    results.add_turns(both, fast, slow, sent=2.5e5, geo={"plan": plan})
    assert turns.figures([both, alone], results) is None
    results.add(alone, 0.0, step=4.0, sent=[10**9] * alone.warmup + [10**6 * step for step in range(11)])
    none, geo, ddp = turns.figures([both, alone], results)
    assert geo["efficiency"] == pytest.approx(0.95) and geo["step_s"] == 0.4 and geo["plan"] == plan
    assert ddp["step_s"] == pytest.approx(4.0) and ddp["efficiency"] == pytest.approx(none["step_s"] / 4)
    assert ddp["sent_mb"] == pytest.approx(1)
    table = Table("zero", turns.COLUMNS, [none, geo, ddp])
    assert "peak MiB" not in table.headings and "MB sent per step" in table.headings
    assert table.rows[1][0].startswith("ZeRO-1 with") and "H = 9, int4, delay 1" in table.rows[1]


def test_every_codec_has_a_row_and_figures(tmp_path):
    threads = torch.get_num_threads()
    assert codecs.main(["--rounds", "1", "--chunks", "1", "--results", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads
    rows = json.loads((tmp_path / "codecs" / "results.json").read_text())["figures"]
    assert len(rows) == len(codecs.CASES) and rows[-1]["name"] == "randk, 41 of 4096"
    assert [row["bits"] for row in rows[:5]] == [32, 16, 8.25, 4.25, 2.25]
    for row in rows:
        assert row["decode_gb_s"] > 0 and row["copy_gb_s"] > 0
        assert row["encode_gb_s"] is None if row["name"] == "fp32" else row["encode_gb_s"] > 0
    assert len((tmp_path / "codecs" / "table.md").read_text().splitlines()) == 4 + len(codecs.CASES)
