# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The report of the demo, from made-up runs and traces."""

import json

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from benchmarks.demo.course import Course
from benchmarks.demo.figures import measure
from benchmarks.demo.report import draw, number_of, read_events
from benchmarks.demo.runs import Run
from benchmarks.demo.setting import METHODS, Setting


@given(warmup=st.integers(0, 50), adopted=st.integers(1, 30), period=st.integers(1, 40))
def test_the_window_begins_with_a_period_of_the_plan_soon_after_the_warm_up(warmup, adopted, period):
    first, last = Setting(warmup=warmup).window(adopted, period)
    boundary = first - 1
    assert last - boundary == 2 * period
    assert boundary >= max(warmup, adopted)
    assert boundary < max(warmup, adopted) + period
    assert (boundary - adopted) % period == 0


def test_draws_all_panels(tmp_path):
    setting = Setting(steps=20, warmup=6)
    geo = {"adopted": 4}
    runs = {
        method: a_run(
            method,
            boundaries=[0.1 * k * (1 + i) for k in range(21)],
            sent=[0] * 21,
            losses=[5 - 0.1 * k for k in range(20)],
            eval_loss=3.0,
            geo=geo,
        )
        for i, method in enumerate(METHODS)
    }
    plan = {
        "period": 5,
        "delay": 1,
        "codec": "bf16",
        "schedule": "stream",
    }
    for rank in range(2):
        write_trace(tmp_path / f"rank-{rank}.trace.json", rank)
    turns = a_run("turns", turns=[{method: 0.1 * (1 + i) for i, method in enumerate(METHODS)}] * 3)
    course = Course(runs=runs, turns=turns, plan=plan, notes=[])
    figures = {method: measure(method, runs[method], turns, 6, 5) for method in METHODS}
    draw(tmp_path / "report.png", setting, 10**6, course, figures, tmp_path)
    picture = imread(tmp_path / "report.png")
    assert picture.shape[0] > 800 and picture.shape[1] > 1000 and picture[..., :3].std() > 0.05


def test_reads_what_the_engine_traces(tmp_path, monkeypatch):
    from geo_accel.profile.trace import Trace

    monkeypatch.setenv("GEO_ACCEL_TRACE", str(tmp_path))
    trace = Trace.from_environment(1, "site1")
    trace.add("step", "step 12", 1.0, 1.5)
    trace.save()
    (event,) = read_events(tmp_path / "rank-1.trace.json")
    assert event["cat"] == "step" and number_of(event) == 12 and event["dur"] == 0.5e6


def a_run(method, **recording):
    return Run(
        method=method,
        label=method,
        recordings=[recording] * 2,
        began=0.0,
        duration_s=3.0,
        link_mbps=[95.0, 95.0],
    )


def write_trace(path, rank):
    events = [{"ph": "M", "name": "process_name", "pid": rank, "args": {"name": "a site"}}]
    for step in range(2, 21):
        start = 1e6 + 1e5 * step + 300 * rank
        events.append({"ph": "X", "cat": "step", "name": f"step {step}", "ts": start, "dur": 9e4, "args": {}})
        if step > 4:
            details = {"slot": (step - 5) % 5}
            events.append({"ph": "X", "cat": "transfer", "name": "h.0", "ts": start, "dur": 8e4, "args": details})
        if step == 9:
            events.append({"ph": "X", "cat": "wait", "name": "h.0", "ts": start + 9e4, "dur": 1e4, "args": {}})
    path.write_text(json.dumps({"traceEvents": events}))
