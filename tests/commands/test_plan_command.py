# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from geo_accel.commands import drawing, picture
from geo_accel.commands.main import main
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.plan import Plan, read_plan
from geo_accel.plan.request import Request
from geo_accel.plan.timeline import timeline
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, UnitProfile, read_profile
from geo_accel.profile.trace import Trace

SHARED = Path(__file__).parents[3] / "shared" / "dreamddp-profiles"
needs_published = pytest.mark.skipif(not SHARED.is_dir(), reason="the published profiles are not here")
# Exposed seconds per period: the optimum at H=10 and at H=5, equal numbers of units and local SGD at H=10.
PUBLISHED = {
    "gpt2-16w-1gbit": (5.1016, 5.3526, 5.329, 5.642),
    "gpt2-8w-10gbit": (0.0538, 0.0616, 0.0644, 0.2279),
    "llama2-124M-16w-10gbit": (0.7414, 0.9027, 0.885, 1.1295),
}
SIZES = {"ln_f": 512, **{f"h.{i}": 789_760 for i in reversed(range(8))}, "wpe": 32_768, "wte": 2_097_152}


def gpt2(**changes):
    units = tuple(
        UnitProfile(name=name, numel=size, forward_s=0.01, backward_s=0.02, update_s=0.001)
        for name, size in SIZES.items()
    )
    links = tuple((site, Link.of(mbps=95, latency_ms=1)) for site in ("here", "there"))
    return Profile(**({"units": units, "links": links} | changes))


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(gpt2().to_json())
    return path


@pytest.fixture
def published(tmp_path):
    """A small folder of the published format: two modules, and one without parameters."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "bp.json").write_text('{"wte": 1.0, "drop": NaN, "head": 2.0}')
    (folder / "comm.json").write_text('{"wte": 3.0, "drop": NaN, "head": 0.5}')
    return folder


@pytest.fixture
def plan(profile, capsys):
    path = profile.with_name("plan.json")
    assert main(["plan", "--profile", str(profile), "--codec", "bf16", "--output", str(path)]) == 0
    capsys.readouterr()
    return path


@pytest.fixture
def call(capsys):
    """Runs `geo-accel plan` with --json and gives the object, which is all that it prints."""

    def run(*arguments):
        code = main(["plan", *map(str, arguments), "--json"])
        output = capsys.readouterr()
        assert code == 0, output.err
        assert output.err == "" and output.out.count("\n") == 1
        return json.loads(output.out)

    return run


@pytest.fixture
def refused(capsys):
    """Runs `geo-accel plan`, which must fail with one line on standard error and exit code 2; gives the line."""

    def run(*arguments):
        try:
            code = main(["plan", *map(str, arguments)])
        except SystemExit as ended:
            code = ended.code
        output = capsys.readouterr()
        assert code == 2 and output.out == "", output.out
        assert len(output.err.splitlines()) == 1
        return output.err

    return run


@pytest.fixture
def screen(capsys, monkeypatch):
    """Runs `geo-accel plan` in a terminal of some width; gives its lines."""

    def run(*arguments, width=100):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["plan", *map(str, arguments)]) == 0
        return capsys.readouterr().out.splitlines()

    return run


@needs_published
@pytest.mark.parametrize("name", PUBLISHED)
def test_dreamddp_reaches_the_exact_optimum_on_the_published_profiles(call, name):
    for period, optimum in zip((10, 5), PUBLISHED[name][:2], strict=True):
        found = call("--profile", SHARED / name, "--period", period, "--schedule", "dreamddp")
        assert found["exposed_s_per_period"] == pytest.approx(optimum, abs=1e-4)
        assert (found["period"], found["mode"], found["codec"], found["delay"]) == (period, "backward", "fp32", 0)
        assert found["step_s"] == pytest.approx(found["compute_s"] + found["exposed_s_per_period"] / period)
        assert found["efficiency"] == pytest.approx(found["compute_s"] / found["step_s"])


@needs_published
def test_of_a_lora_run_only_what_trains_is_sent(call):
    found = call("--profile", SHARED / "qwen2.5-7b-lora-16w-1gbit", "--period", 10, "--schedule", "dreamddp")
    assert found["exposed_s_per_period"] == pytest.approx(0.0869, abs=1e-4)
    names = [name for name, _ in found["plan"]["units"]]
    assert len(names) == 392 and all(".lora_" in name for name in names)


@needs_published
@pytest.mark.parametrize("name", PUBLISHED)
def test_equal_and_full_cost_what_the_paper_says(call, name):
    for schedule, mode, expected in zip(("equal", "full"), ("backward", "blocking"), PUBLISHED[name][2:], strict=True):
        found = call("--profile", SHARED / name, "--period", 10, "--schedule", schedule)
        assert found["exposed_s_per_period"] == pytest.approx(expected, rel=0.005)
        assert found["mode"] == mode


@needs_published
def test_a_tied_weight_is_sent_once(call):
    folder = SHARED / "gpt2-16w-1gbit"
    arguments = ("--profile", folder, "--period", 10)
    tie = ("--tied", "transformer.wte=lm_head")
    plain, tied = (call(*arguments, "--schedule", "full", *extra)["exposed_s_per_period"] for extra in ((), tie))
    assert 1 - tied / plain == pytest.approx(0.229, abs=0.005)
    twice = next(unit.transfer_s for unit in read_profile(folder).units if unit.name == "lm_head")
    # What hides is at most backward, so the optimum falls by nearly all of the second transfer.
    plain, tied = (call(*arguments, "--schedule", "dreamddp", *extra)["exposed_s_per_period"] for extra in ((), tie))
    assert plain == pytest.approx(5.1016, abs=1e-4)
    assert twice - 0.0888 <= plain - tied <= twice


def test_the_default_streams_what_hides(call, profile):
    found = call("--profile", profile)
    assert (found["mode"], found["schedule"]) == ("stream", "stream") and found["period"] < 5
    assert found["efficiency"] > 0.99
    many = call("--profile", profile, "--codec", "bf16")
    assert many["period"] == 5
    assert many["bytes_per_period"] == pytest.approx(2 * sum(SIZES.values()))  # bf16, to one other site
    assert Plan.from_json(json.dumps(found["plan"])).fingerprint == found["fingerprint"]


@pytest.mark.parametrize(
    "schedule, mode", [("full", "blocking"), ("equal", "backward"), ("dreamddp", "backward"), ("stream", "stream")]
)
def test_a_schedule_brings_its_mode(call, profile, schedule, mode):
    found = call("--profile", profile, "--schedule", schedule, "--period", 4)
    assert (found["schedule"], found["mode"], found["period"]) == (schedule, mode, 4)


def test_what_is_fixed_stays_fixed(call, profile):
    given = {"period": 6, "mode": "stream", "schedule": "equal", "codec": "fp32", "delay": 3}
    arguments = [word for key, value in given.items() for word in (f"--{key}", value)]
    found = call("--profile", profile, *arguments)
    assert {key: found[key] for key in given} == given


def test_auto_chooses_the_period_over_measured_transfers(call, published):
    found = call("--profile", published, "--schedule", "equal", "--period", "auto")
    assert found["codec"] == "fp32" and found["bytes_per_period"] is None
    assert call("--profile", published, "--schedule", "equal", "--codec", "bf16")["codec"] == "bf16"


def test_sites_and_link_of_the_command_line_count(call, profile):
    arguments = ("--profile", profile, "--schedule", "full", "--period", 2, "--codec", "fp32")
    values = sum(SIZES.values())
    found = call(*arguments, "--bandwidth-mbps", 8, "--latency-ms", 500)
    assert found["exposed_s_per_period"] == pytest.approx(0.5 + 4 * values / 1e6)
    found = call(*arguments, "--bandwidth-mbps", 8, "--latency-ms", 0, "--sites", 4)
    assert found["bytes_per_period"] == pytest.approx(2 * 3 / 4 * 4 * values)
    assert found["exposed_s_per_period"] == pytest.approx(found["bytes_per_period"] / 1e6)
    # What is not stated stays as it was measured.
    found = call(*arguments, "--latency-ms", 500)
    assert found["exposed_s_per_period"] == pytest.approx(0.5 + 4 * values / (95e6 / 8))


def test_sites_come_from_the_profile(call, tmp_path):
    path = tmp_path / "three.json"
    link = gpt2().links[0][1]
    path.write_text(gpt2(links=tuple((f"site{i}", link) for i in range(3))).to_json())
    assert call("--profile", path)["plan"]["exchange"] == "two-shot"


def test_output_writes_a_plan_that_reads_back_the_same(call, profile, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("old")
    made = call("--profile", profile, "--output", path)
    assert read_plan(path).fingerprint == made["fingerprint"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.json", "profile.json"]
    assert call("--plan", path, "--profile", profile) == made


def test_a_plan_alone_is_shown_without_times(call, screen, plan):
    found = call("--plan", plan)
    assert found["step_s"] is found["efficiency"] is found["bytes_per_period"] is None
    assert found["period"] == 5 and found["fingerprint"] == read_plan(plan).fingerprint
    text = "\n".join(screen("--plan", plan))
    assert "h.3[2:8/8] .. h.1[0:3/8]" in text and "stream" in text and "efficiency" not in text


def test_a_plan_may_list_units_in_another_order_than_the_profile(call, plan, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(gpt2(units=gpt2().units[::-1]).to_json())
    assert call("--plan", plan, "--profile", other)["period"] == 5


def test_a_published_profile_is_compared_by_names(call, refused, published, tmp_path):
    path = tmp_path / "plan.json"
    call("--profile", published, "--schedule", "dreamddp", "--period", 2, "--output", path)
    assert call("--plan", path, "--profile", published)["period"] == 2
    (published / "bp.json").write_text('{"wte": 1.0, "drop": NaN, "body": 2.0}')
    (published / "comm.json").write_text('{"wte": 3.0, "drop": NaN, "body": 0.5}')
    assert "it is for another model: unit head" in refused("--plan", path, "--profile", published)


def test_the_tables_name_figures_and_steps(screen, profile):
    lines = screen("--profile", profile, "--schedule", "dreamddp", "--period", 20, "--codec", "fp32")
    text = "\n".join(lines)
    for word in ("dreamddp, mode backward", "20 steps", "fp32", "efficiency", "exposed", "MB per period", "reason"):
        assert word in text
    assert all(cell_len(line) <= 100 for line in lines)
    assert "nothing" in text  # 11 units cannot fill 20 steps


def test_a_long_period_does_not_flood_the_screen(screen, profile):
    lines = screen("--profile", profile, "--schedule", "stream", "--period", 200, "--codec", "fp32", "--delay", 1)
    assert len(lines) < 90 and any("and 152 more steps" in line for line in lines)


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
        choose_plan(Request(mode=mode, period=1, schedule=schedule, codec="fp32"), [("a", 0)], 2, one), one, 2
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
    real = Trace(str(tmp_path), 0, "here")
    real.add("step", "step 1", 0.0, 1.0)
    real.save()
    ours = json.loads((tmp_path / "rank-0.trace.json").read_text())["traceEvents"]
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


BAD_PROFILES = {
    "cut": (lambda text: text[:300], "not JSON, or cut off"),
    "version": (lambda text: text.replace('"version": 1', '"version": 9'), "version 9 was found"),
    "NaN": (lambda text: text.replace('"backward_s": 0.02', '"backward_s": NaN', 1), "backward_s of unit ln_f is nan"),
    "no units": (lambda _: replaced(gpt2().to_json(), units=[]), "it has no units"),
    "no link": (lambda _: gpt2(links=()).to_json(), "neither links nor transfer times: state --bandwidth-mbps"),
    "deep": (lambda _: "[" * 100_000, "not a profile"),
    "a plan": (lambda _: '{"version": 1, "mode": "stream"}', "not a profile"),
}


def replaced(text, **fields):
    return json.dumps({**json.loads(text), **fields})


@pytest.mark.parametrize("change, problem", BAD_PROFILES.values(), ids=BAD_PROFILES)
def test_a_bad_profile_gets_one_line(refused, profile, change, problem):
    profile.write_text(change(profile.read_text()))
    line = refused("--profile", profile)
    assert problem in line and "profile.json" in line


def test_a_folder_with_only_bp_gets_one_line(refused, published):
    (published / "comm.json").unlink()
    line = refused("--profile", published, "--schedule", "dreamddp")
    assert "comm.json: profile: cannot be read" in line


BAD_PLANS = {
    "cut": (lambda text: text[:200], "not JSON, or cut off"),
    "version": (lambda text: text.replace('"version": 3', '"version": 99'), "version 99 was found"),
    "codec": (lambda text: text.replace('"bf16"', '"int3"'), "codec 'int3' was found; allowed: fp32, bf16"),
    "kept": (lambda text: text.replace('"kept": []', '"kept": [0]'), "cannot say how many values each site keeps"),
    "residual": (lambda text: text.replace('"weights"', '"air"'), "residual 'air' was found; allowed: weights"),
    "outer": (lambda text: text.replace('"momentum": 0.0', '"momentum": 7'), "the outer momentum is 7; it must be"),
    "exchange": (lambda text: text.replace('"direct"', '"pigeon"'), "exchange 'pigeon' was found"),
    "forgotten unit": (lambda text: text.replace('["ln_f", "h.7', '["h.7'), "unit ln_f is not synchronised whole"),
    "unit": (lambda text: text.replace('"h.3', '"g.3'), "unit g.3 of 789760 elements; this one has no such unit"),
    "size": (lambda text: text.replace('"wte", 2097152', '"wte", 5'), "unit wte of 5 elements; this one has 2097152"),
    "a list": (lambda _: "[]", "not a plan"),
    "deep": (lambda _: "[" * 100_000, "not a plan"),
}


@pytest.mark.parametrize("change, problem", BAD_PLANS.values(), ids=BAD_PLANS)
def test_a_bad_plan_gets_one_line(refused, profile, plan, change, problem):
    text = plan.read_text()
    plan.write_text(change(text))
    assert plan.read_text() != text
    line = refused("--plan", plan, "--profile", profile)
    assert problem in line and "plan.json" in line


def test_a_profile_with_a_unit_more_is_another_model(refused, plan, tmp_path):
    other = tmp_path / "other.json"
    unit = replace(gpt2().units[0], name="adapter")
    other.write_text(gpt2(units=(*gpt2().units, unit)).to_json())
    assert "this one also has the unit adapter" in refused("--plan", plan, "--profile", other)


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ([], "give --profile PATH to make a plan, or --plan FILE"),
        (["--profile", "none.json"], "none.json: profile: cannot be read"),
        (["--plan", "none.json"], "none.json: plan: cannot be read"),
        (["--profile", "P", "--period", "0"], "--period: '0' given; allowed: a whole number from 1 on or auto"),
        (["--profile", "P", "--period", "1e3"], "--period: '1e3' given"),
        (["--profile", "P", "--sites", "1"], "--sites: '1' given; allowed: a whole number from 2 on"),
        (["--profile", "P", "--tied", "wte=nowhere"], "no unit 'nowhere'"),
        (["--profile", "P", "--tied", "wte"], "write it as in transformer.wte=lm_head"),
        (["--profile", "P", "--codec", "int3"], "--codec 'int3' is not in this version; allowed: auto, fp32, bf16"),
        (["--profile", "P", "--schedule", "best"], "--schedule 'best'"),
        (["--profile", "P", "--mode", "fast"], "--mode 'fast'"),
        (["--profile", "P", "--bandwidth-mbps", "0"], "a number above 0"),
        (["--profile", "P", "--bandwidth-mbps", "nan"], "a finite number"),
        (["--profile", "P", "--latency-ms", "-1"], "not negative"),
        (
            ["--profile", "P", "--period", "3", "--delay", "4"],
            "delay 4; in mode stream it is at least 1 and at most 3",
        ),
        (["--profile", "P", "--schedule", "full", "--delay", "1"], "mode blocking applies within the step"),
        (["--profile", "P", "--show", "--json"], "leave one of them out"),
        (["--profile", "P", "--output", "nowhere/plan.json"], "its folder does not exist"),
        (["--profile", "P", "--png", "."], "is a folder"),
        (["--profile", "D"], "the schedule stream balances elements, which this profile does not know"),
        (["--profile", "D", "--schedule", "equal", "--bandwidth-mbps", "9"], "leave --bandwidth-mbps and --latency"),
        (["--plan", "L", "--period", "3"], "--period makes a new plan and --plan reads one"),
        (["--plan", "L", "--show"], "--show needs a profile"),
        (["--plan", "L", "--latency-ms", "0"], "--latency-ms needs a profile"),
    ],
)
def test_wrong_use_gets_one_line(refused, profile, published, plan, monkeypatch, tmp_path, arguments, problem):
    monkeypatch.chdir(tmp_path)
    paths = {"P": profile, "D": published, "L": plan}
    before = sorted(tmp_path.rglob("*"))
    assert problem in refused(*(paths.get(word, word) for word in arguments))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_latency_alone_needs_a_link_that_was_measured(refused, profile):
    profile.write_text(gpt2(links=()).to_json())
    assert "state --bandwidth-mbps too" in refused("--profile", profile, "--latency-ms", 3)


def test_times_beyond_what_numbers_hold_are_refused(refused, profile):
    units = tuple(replace(unit, backward_s=sys.float_info.max) for unit in gpt2().units)
    profile.write_text(gpt2(units=units).to_json())
    line = refused("--profile", profile, "--show", "--schedule", "full", "--period", 2, "--codec", "fp32")
    assert "too large to be added up" in line
