# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which plan comes out, and how it is read back and shown."""

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from geo_accel.plan.plan import Plan, read_plan
from geo_accel.profile.link import Link
from geo_accel.profile.profile import read_profile
from tests.commands.small_gpt2 import SIZES, gpt2

SHARED = Path(__file__).parents[3] / "shared" / "dreamddp-profiles"
needs_published = pytest.mark.skipif(not SHARED.is_dir(), reason="the published profiles are not here")
# Exposed seconds per period: the optimum at H=10 and at H=5, equal numbers of units and local SGD at H=10.
PUBLISHED = {
    "gpt2-16w-1gbit": (5.1016, 5.3526, 5.329, 5.642),
    "gpt2-8w-10gbit": (0.0538, 0.0616, 0.0644, 0.2279),
    "llama2-124M-16w-10gbit": (0.7414, 0.9027, 0.885, 1.1295),
}


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


def test_a_plan_that_names_its_sites_goes_over_their_links(call, screen, refused, plan, tmp_path):
    """Whatever the order in which the profile lists them, and whoever else is in it."""
    fast, slow = (Link.of(mbps=mbps, latency_ms=1) for mbps in (1000, 10))
    path, listed = tmp_path / "three.json", (("paris", fast), ("rome", fast), ("oslo", slow))
    path.write_text(gpt2(links=listed).to_json())
    fields = json.loads(plan.read_text()) | {"sites": ["oslo", "paris", "rome"], "kept": {}, "coefficients": {}}
    steps = []
    for center in ("oslo", "paris"):
        plan.write_text(json.dumps(fields | {"exchange": "hub", "hub": center}))
        steps.append(call("--plan", plan, "--profile", path)["step_s"])
    assert steps[0] > 1.5 * steps[1]
    assert any("oslo, paris, rome" in line for line in screen("--plan", plan))
    assert "for the sites oslo, paris, rome; here are 4 sites" in refused(
        "--plan", plan, "--profile", path, "--sites", 4
    )


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
