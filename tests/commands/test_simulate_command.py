# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
import struct
import sys

import pytest

from geo_accel.commands import curves, progress
from geo_accel.commands.main import main
from geo_accel.plan.shapes import PRESETS
from geo_accel.plan.simulate import METHODS, STREAMS
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, UnitProfile

MODEL = ["simulate", "--model", "gpt2", "--flops", "1e12", "--bandwidth-mbps", "100"]


def answer(capsys, *argv):
    assert main(list(argv)) == 0
    return json.loads(capsys.readouterr().out)


def step_s(capsys, *argv):
    return {outcome["method"]: outcome["step_s"] for outcome in answer(capsys, *argv, "--json")["methods"]}


@pytest.fixture
def measured(tmp_path):
    profile = Profile(
        units=tuple(UnitProfile(name=n, numel=10**6, forward_s=0.01, backward_s=0.02) for n in ("b", "a")),
        links=tuple((site, Link.of(mbps=200, latency_ms=5)) for site in ("x", "y", "z")),
    )
    path = tmp_path / "profile.json"
    path.write_text(profile.to_json())
    return path


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "bp.json").write_text('{"a": 0.1, "b": 0.1}')
    (folder / "comm.json").write_text('{"a": 0.3, "b": 0.2}')
    return folder


def test_the_table_has_a_line_per_method_and_fits_into_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    prices = ["--gpu-hour", "2", "--gb", "0.05"]
    assert main([*MODEL, "--sites", "3", "--gpus-per-site", "8", "--micro-batches", "8", *prices]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("gpt2 over 3 sites of 8 GPUs, slowest link 100 Mbit/s, 20 ms")
    assert [line.split()[0] for line in lines if line.strip().startswith(METHODS)] == list(METHODS)
    assert "…" not in "".join(lines) and "$/M tokens" in "".join(lines)


def test_cost_is_left_out_without_prices(capsys):
    assert main(MODEL) == 0
    assert "$" not in capsys.readouterr().out


def test_json_holds_the_question_and_every_outcome(capsys):
    found = answer(capsys, *MODEL, "--sites", "4", "--batch", "2", "--micro-batches", "3", "--json")
    assert found["tokens_per_step"] == 4 * 2 * 1024 * 3
    assert [outcome["method"] for outcome in found["methods"]] == list(METHODS)
    assert found["methods"][0]["step_s"] == pytest.approx(found["compute_s"])


def test_only_the_methods_asked_for(capsys):
    assert list(step_s(capsys, *MODEL, "--methods", "stream,none")) == ["none", *STREAMS]


def test_the_slowest_of_several_links_decides(capsys):
    mixed = step_s(capsys, *MODEL[:-1], "1000,50,500", "--latency-ms", "1,5,40", "--sites", "3")
    alone = step_s(capsys, *MODEL[:-1], "50", "--latency-ms", "40", "--sites", "3")
    assert mixed == alone


def test_a_config_file_and_its_folder_are_models(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PRESETS["gpt2"]))
    named = step_s(capsys, *MODEL)
    for path in (tmp_path, tmp_path / "config.json"):
        assert step_s(capsys, "simulate", "--model", str(path), *MODEL[3:]) == named


def test_a_measured_profile_brings_its_links(capsys, measured):
    found = answer(capsys, "simulate", "--profile", str(measured), "--json")
    assert found["sites"] == 3 and found["tokens_per_step"] is None
    assert found["slowest_link"] == {"mbps": pytest.approx(200), "latency_ms": pytest.approx(5)}
    other = answer(capsys, "simulate", "--profile", str(measured), "--bandwidth-mbps", "50", "--json")
    assert other["slowest_link"] == {"mbps": pytest.approx(50), "latency_ms": pytest.approx(20)}
    assert other["methods"][1]["step_s"] > found["methods"][1]["step_s"]


def test_batch_and_sequence_give_a_profile_its_tokens(capsys, measured):
    argv = ["simulate", "--profile", str(measured), "--batch", "2", "--sequence", "10", "--gpus-per-site", "4"]
    assert answer(capsys, *argv, "--json")["tokens_per_step"] == 3 * 4 * 2 * 10


def test_a_published_profile_is_simulated_as_measured(capsys, published):
    steps = step_s(capsys, "simulate", "--profile", str(published), "--dtype", "fp32", "--period", "2")
    assert steps["none"] == pytest.approx(0.2) and steps["local-sgd"] == pytest.approx(0.45)
    assert main(["simulate", "--profile", str(published)]) == 0
    assert "measured transfers" in capsys.readouterr().out


def test_the_picture_is_drawn(capsys, tmp_path, measured, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(curves, "_BANDWIDTHS", [10, 1000])
    monkeypatch.setattr(curves, "_PERIODS", (1, 8))
    path = tmp_path / "picture.png"
    assert main(["simulate", "--profile", str(measured), "--plot", str(path)]) == 0
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", data[16:24])) > 500
    assert capsys.readouterr().err == ""


def test_without_a_link_a_picture_is_refused(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    unit = UnitProfile(name="a", numel=1000, backward_s=0.1, transfer_s=0.05)
    (tmp_path / "profile.json").write_text(Profile(units=(unit,)).to_json())
    argv = ["simulate", "--profile", str(tmp_path / "profile.json"), "--methods", "none,local-sgd"]
    assert main([*argv, "--plot", str(tmp_path / "x.png")]) == 2
    assert "--plot: the profile knows no link" in capsys.readouterr().err
    assert main([*argv, "--bandwidth-mbps", "100"]) == 0


def test_a_profile_measured_on_one_site_asks_for_the_option_that_it_lacks(capsys, tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(Profile(units=(UnitProfile(name="a", numel=1000, backward_s=0.1),)).to_json())
    assert main(["simulate", "--profile", str(path)]) == 2
    assert f"{path}: the profile knows neither links" in (said := capsys.readouterr().err) and "--bandwidth" in said
    assert main(["simulate", "--profile", str(path), "--bandwidth-mbps", "100"]) == 0


def test_without_matplotlib_one_line_says_what_to_install(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*MODEL, "--plot", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err == (
        "geo-accel: error: simulate: --plot needs matplotlib, which is not installed: "
        "pip install 'geo-accel[report]'.\n"
    )


def test_long_work_shows_a_bar_on_standard_error(capsys, monkeypatch):
    ticks = iter(range(0, 100, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))
    started = []
    monkeypatch.setattr(progress.Progress, "start", lambda self: started.append(self))
    assert list(progress.watched("abc", "working")) == list("abc")
    assert started and started[0].console.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give either --model or --profile"),
        (["--model", "gpt2", "--profile", "x"], "give either --model or --profile"),
        (["--model", "gpt2"], "--model needs --flops too"),
        (["--model", "gpt2", "--flops", "1e12"], "--model needs --bandwidth-mbps too"),
        ([*MODEL[1:], "--flops", "nan"], "flops is nan"),
        ([*MODEL[1:], "--flops=-1e12"], "flops is -1e+12"),
        ([*MODEL[1:], "--bandwidth-mbps", "nan"], "--bandwidth-mbps is nan"),
        ([*MODEL[1:], "--bandwidth-mbps=-5"], "--bandwidth-mbps is -5"),
        ([*MODEL[1:], "--bandwidth-mbps", "0"], "--bandwidth-mbps is 0"),
        ([*MODEL[1:], "--bandwidth-mbps", "1,2,3"], "3 numbers for 2 sites"),
        ([*MODEL[1:], "--latency-ms=-1"], "--latency-ms is -1"),
        ([*MODEL[1:], "--latency-ms", "inf"], "--latency-ms is inf"),
        ([*MODEL[1:], "--sites", "1"], "sites is 1"),
        ([*MODEL[1:], "--sites", "-3"], "sites is -3"),
        ([*MODEL[1:], "--batch", "0"], "batch is 0"),
        ([*MODEL[1:], "--micro-batches", "-2"], "micro-batches is -2"),
        ([*MODEL[1:], "--gpus-per-site", "0"], "gpus-per-site is 0"),
        ([*MODEL[1:], "--memory-gbps", "nan"], "--memory-gbps is nan"),
        ([*MODEL[1:], "--site-gbps", "0"], "--site-gbps is 0"),
        ([*MODEL[1:], "--period", "0"], "period is 0"),
        ([*MODEL[1:], "--methods", "ddp"], "'ddp' is unknown"),
        ([*MODEL[1:], "--gpu-hour", "nan"], "gpu-hour is nan"),
        ([*MODEL[1:], "--gb=-1"], "gb is -1"),
        ([*MODEL[1:], "--plot", "x.jpeg2000"], "must end in one of .png"),
        ([*MODEL[1:], "--plot", "no/such/folder/x.png"], "the folder does not exist"),
        (["--profile", "no/such/file"], "no/such/file: profile: cannot be read"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(argv, message, capsys):
    assert main(["simulate", *argv]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and len(printed.err.splitlines()) == 1 and printed.out == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--flops", "3"], "--flops is for --model"),
        (["--site-gbps", "3"], "--site-gbps is for --model"),
        (["--latency-ms", "3"], "give --bandwidth-mbps too"),
        (["--bandwidth-mbps", "3"], "no sizes of units"),
        (["--plot", "x.png"], "no sizes"),
        (["--batch", "-1", "--sequence", "4"], "batch is -1"),
    ],
)
def test_what_does_not_go_with_a_published_profile_is_refused(argv, message, capsys, published):
    assert main(["simulate", "--profile", str(published), *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--period", "soon"], ["--bandwidth-mbps", "fast"], ["--dtype", "fp8"]])
def test_unreadable_arguments_get_one_line(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*MODEL, *argv])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
