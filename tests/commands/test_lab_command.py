# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from geo_accel.commands.main import main
from geo_accel.lab import why_unavailable


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--"], "no command given"),
        (["--", "no-such-command"], "command not found: no-such-command"),
        (["--sites", "0", "--", "true"], "sites: 0 given"),
        (["--bandwidth-mbps", "1,2,3", "--", "true"], "3 values for 2 sites"),
        (["--ranks-per-site", "0", "--", "true"], "ranks_per_site: 0"),
        (["--grace-s", "-1", "--", "true"], "grace_s: -1"),
        (["--json", "/no/such/folder/x.json", "--", "true"], "the folder does not exist"),
        (["--no-shaping", "--latency-ms", "5", "--", "true"], "need shaping"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(argv, words, capsys):
    assert main(["lab", *argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("geo-accel: error: lab: ")
    assert words in line


def test_lines_carry_the_name_of_their_site_and_the_exit_code_comes_through(capfd):
    assert main(["lab", "--no-shaping", "--", "sh", "-c", "echo one; echo two >&2; exit 4"]) == 4
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == ["[site0] one", "[site0] two", "[site1] one", "[site1] two"]


@pytest.mark.lab
@pytest.mark.timeout(60)
def test_the_report_holds_rates_bytes_and_exit_codes(tmp_path, capfd):
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    report = tmp_path / "lab.json"
    command = ["lab", "--bandwidth-mbps", "80,40", "--json", str(report), "--", "sh", "-c", "exit {rank}"]
    assert main(command) == 1
    found = json.loads(report.read_text())
    assert [site["exit_code"] for site in found["sites"]] == [0, 1]
    assert [site["wanted_mbps"] for site in found["sites"]] == [80, 40]
    assert 68 < found["sites"][0]["measured_mbps"] < 80
    assert 34 < found["sites"][1]["measured_mbps"] < 40
    assert all(site["bytes_sent"] < 5000 for site in found["sites"])
    assert found["duration_s"] > 0
    tables = capfd.readouterr().err
    assert "wanted Mbit/s" in tables
    assert "exit code" in tables
