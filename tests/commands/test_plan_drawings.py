# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The timeline of a plan as a drawing, a picture and a trace."""

import json
import sys

import pytest
from rich.cells import cell_len

from geo_accel.commands import drawing, picture
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.members import Members
from geo_accel.plan.request import Request
from geo_accel.plan.timeline import timeline
from geo_accel.profile.profile import Profile, UnitProfile
from geo_accel.profile.trace import Trace


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("period", [1, 5, 64])
def test_show_fits_the_terminal(screen, profile, width, period):
    lines = screen("--profile", profile, "--period", period, "--show", width=width)
    lanes = [line for line in lines if line.split(" ")[0] in ("step", "compute", "link", "waits", "seconds")]
    assert len(lanes) == 5 and all(cell_len(line) <= width for line in lanes)


def lane(course, name, width, plain=False):
    return next(
        line[9:] for line in drawing.draw(course, width, plain).plain.splitlines() if line.startswith(f"{name} ")
    )


def course_of(transfer_s, mode="blocking"):
    units = (UnitProfile(name="a", numel=0, forward_s=2.0, backward_s=1.0, update_s=1.0, transfer_s=transfer_s),)
    one = Profile(units=units)
    schedule = "full" if mode == "blocking" else "equal"
    return timeline(
        choose_plan(Request(mode=mode, period=1, schedule=schedule, codec="fp32"), [("a", 0)], Members(2), one),
        one,
        Members(2),
    )


def test_the_drawing_is_to_scale():
    # Of 40 columns a second is 4: forward 8, backward 4, update 4, then 24 of waiting for the link.
    course = course_of(6.0)
    assert drawing.length(course) == pytest.approx(10)
    assert lane(course, "compute", 49) == "▒" * 8 + "█" * 4 + "▓" * 4 + " " * 24
    assert lane(course, "link", 49) == lane(course, "waits", 49) == " " * 16 + "█" * 24
    assert lane(course, "seconds", 49).startswith("0") and lane(course, "seconds", 49)[20] == "5"
    assert lane(course, "link", 49, plain=True) == " " * 16 + "#" * 24


def test_what_is_shorter_than_a_column_is_seen():
    assert "▁" in lane(course_of(0.004), "waits", 49)


def test_blocks_stay_within_the_period_and_take_the_time_of_the_timeline():
    for mode in ("blocking", "backward"):
        course = course_of(6.0, mode)
        blocks = drawing.blocks(course)
        assert all(0 <= block.start < block.stop <= drawing.length(course) for block in blocks)
        waits = sum(block.stop - block.start for block in blocks if block.kind == "wait")
        assert waits == pytest.approx(course.exposed_s_per_period)


def test_a_picture_is_written(call, profile, tmp_path):
    pytest.importorskip("matplotlib")
    call("--profile", profile, "--png", tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_is_refused_before_anything_is_done(refused, profile, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refused("--profile", profile, "--png", tmp_path / "a.png", "--output", tmp_path / "plan.json")
    assert "pip install 'geo-accel[report]'" in line
    assert not (tmp_path / "plan.json").exists()
    with pytest.raises(ValueError, match="report"):
        picture.draw(course_of(1.0), "")


def test_the_trace_has_the_form_of_a_run_s(call, profile, tmp_path):
    found = call("--profile", profile, "--mode", "backward", "--period", 3, "--trace", tmp_path / "plan.trace.json")
    events = json.loads((tmp_path / "plan.trace.json").read_text())["traceEvents"]
    real = Trace(str(tmp_path), 0, "here.0")
    real.add("step", "step 1", 0.0, 1.0)
    real.save()
    ours = json.loads((tmp_path / "here.0.trace.json").read_text())["traceEvents"]
    assert [event.keys() for event in events[:2]] == [event.keys() for event in ours]
    spans = [event for event in events if event["ph"] == "X"]
    assert all(event["tid"] == event["cat"] and event["ts"] >= 0 and event["dur"] >= 0 for event in spans)
    assert {event["cat"] for event in spans} == {"step", "forward", "backward", "update", "transfer", "wait"}
    steps = [event for event in spans if event["cat"] == "step"]
    assert [event["name"] for event in steps] == ["step 1", "step 2", "step 3"]
    assert sum(event["dur"] for event in steps) == pytest.approx(3e6 * found["step_s"])
    waits = sum(event["dur"] for event in spans if event["cat"] == "wait")
    assert waits == pytest.approx(1e6 * found["exposed_s_per_period"])


def test_a_transfer_from_the_period_before_is_in_the_trace(call, published, tmp_path):
    # Steps of 3 s; "drop" starts 3 s before the period ends and takes 4 s.
    (published / "comm.json").write_text('{"wte": 0.5, "drop": 4.0, "head": 0.5}')
    given = ("--schedule", "equal", "--mode", "stream", "--period", 3, "--delay", 2)
    call("--profile", published, *given, "--trace", tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    transfers = [(event["name"], event["ts"] / 1e6) for event in events if event.get("cat") == "transfer"]
    assert transfers == [(name, pytest.approx(at)) for name, at in (("drop", 0), ("wte", 4), ("head", 6), ("drop", 9))]
    steps = [event["ts"] / 1e6 for event in events if event.get("cat") == "step"]
    assert steps == pytest.approx([3, 6, 9])
