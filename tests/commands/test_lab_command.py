# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
import sys

import pytest

from geo_accel.commands.main import main

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--"], "no command given"),
        (["--", "no-such-command"], "command not found: no-such-command"),
        (["--sites", "0", "--", "true"], "sites: 0 given"),
        (["--bandwidth-mbps", "1,2,3", "--", "true"], "3 values for 2 sites"),
        (["--downlink-mbps", "1,2,3", "--", "true"], "downlink_mbps: 3 values for 2 sites"),
        (["--no-shaping", "--downlink-mbps", "5", "--", "true"], "downlink_mbps needs shaping"),
        (["--one-job", "--ranks-per-site", "0", "--", "true"], "ranks_per_site: 0"),
        *(
            ([*more, "--ranks-per-site", "1", "--", "true"], "--ranks-per-site 1 is for one job over all sites")
            for more in ([], ["--jobs"])
        ),
        (["--grace-s", "-1", "--", "true"], "grace_s: -1"),
        (["--json", "/no/such/folder/x.json", "--", "true"], "the folder does not exist"),
        (["--no-shaping", "--latency-ms", "5", "--", "true"], "need shaping"),
        (["--change", "20s=30,40,50", "--", "true"], "rate change after 20 s: 3 values for 2 sites"),
        (["--change", "step 30=0", "--", "true"], "rate change at a line with 'step 30': 0 given"),
        (["--change", "20s=cut10s", "--", "true"], "'cut10s' given; write Mbit/s, up, cut, or cut 10s"),
        (["--nat", "3", "--", "true"], "nat: '3' given; the sites are site0 to site1, or 0 to 1"),
        (["--no-shaping", "--nat", "1", "--", "true"], "leave out --no-shaping or --nat"),
        (["--no-shaping", "--change", "20s=30", "--", "true"], "leave out --no-shaping or --change"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(argv, words, capsys):
    assert main(["lab", *argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("geo-accel: error: lab: ")
    assert words in line


@pytest.mark.parametrize("change", ["20=30", "20s", "=30", "20s=", "step 30=fast"])
def test_a_change_that_cannot_be_read_gets_one_line_and_exit_code_2(change, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["lab", "--change", change, "--", "true"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "argument --change: " in line
    assert "given; " in line


@pytest.mark.parametrize(
    "options, script, environ",
    [
        ([], "", "job"),
        ([], "# {master}", "one"),
        (["--one-job"], "", "one"),
        (["--jobs"], "# {master}", "job"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_job_per_site_unless_the_command_spans_them(options, script, environ, capfd):
    printed = f'echo "$GEO_ACCEL_SITE $GEO_ACCEL_EXPECT $RANK $WORLD_SIZE" {script}'
    assert main(["lab", "--no-shaping", *options, "--", "sh", "-c", printed]) == 0
    lines = [line.split(None, 1)[1].strip() for line in sorted(capfd.readouterr().out.splitlines())]
    assert lines == {"job": ["site0 2", "site1 2"], "one": ["0 2", "1 2"]}[environ]


def test_both_ways_at_once_get_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["lab", "--jobs", "--one-job", "--", "true"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "argument --one-job: not allowed with argument --jobs" in line


def test_without_what_makes_keys_one_line_says_which_extra_or_way(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert main(["lab", "--no-shaping", "--", "true"]) == 2
    assert capsys.readouterr().err == (
        "geo-accel: error: lab: each site's job needs a key file, and making keys needs the package cryptography (the "
        "extra keys): pip install cryptography; or add --one-job\n"
    )
    assert main(["lab", "--no-shaping", "--one-job", "--", "true"]) == 0


def test_lines_carry_the_name_of_their_site_and_the_exit_code_comes_through(capfd):
    assert main(["lab", "--no-shaping", "--", "sh", "-c", "echo one; echo two >&2; exit 4"]) == 4
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == ["[site0] one", "[site0] two", "[site1] one", "[site1] two"]


@pytest.mark.lab
@pytest.mark.timeout(60)
def test_the_report_holds_rates_bytes_and_exit_codes(tmp_path, capfd):
    report = tmp_path / "lab.json"
    command = ["lab", "--bandwidth-mbps", "80,40", "--json", str(report), "--", "sh", "-c", "exit {rank}"]
    assert main(command) == 1
    found = json.loads(report.read_text())
    assert [site["exit_code"] for site in found["sites"]] == [0, 1]
    assert [site["wanted_mbps"] for site in found["sites"]] == [80, 40]
    assert [site["wanted_downlink_mbps"] for site in found["sites"]] == [None, None]
    assert 68 < found["sites"][0]["measured_mbps"] < 80
    assert 34 < found["sites"][1]["measured_mbps"] < 40
    assert all(site["bytes_sent"] < 5000 for site in found["sites"])
    assert found["duration_s"] > 0
    tables = capfd.readouterr().err
    assert "wanted Mbit/s" in tables
    assert "downlink" not in tables
    assert "exit code" in tables


@pytest.mark.lab
@pytest.mark.timeout(60)
def test_the_report_and_the_probe_know_the_downlinks(tmp_path, capfd):
    report = tmp_path / "lab.json"
    # Site 2 sends ten times as fast as it may receive: with both at once, neither rate would be seen.
    rates = ["--bandwidth-mbps", "40,80,60", "--downlink-mbps", "50,100,5"]
    assert main(["lab", "--sites", "3", *rates, "--json", str(report), "--", "true"]) == 0
    found = json.loads(report.read_text())["sites"]
    assert [site["wanted_downlink_mbps"] for site in found] == [50, 100, 5]
    for site, mbps in zip(found, (40, 5, 50), strict=True):
        assert 0.85 * mbps < site["measured_mbps"] < mbps
    assert "downlink" in capfd.readouterr().err


@pytest.mark.lab
@pytest.mark.timeout(60)
def test_changes_of_the_rate_are_made_and_reported(tmp_path, capfd):
    report = tmp_path / "lab.json"
    changes = ["--change", "0.5s=30,50", "--change", "loss=2=20", "--change", "99s=5"]
    script = "echo loss=2; sleep 1"
    assert main(["lab", *changes, "--json", str(report), "--", "sh", "-c", script]) == 0
    found = json.loads(report.read_text())["rate_changes"]
    assert [change["mbps"] for change in found] == [[30, 50], [20, 20], [5, 5]]
    assert [change["after_s"] for change in found] == [0.5, None, 99]
    assert found[1]["after_text"] == "loss=2"
    assert found[1]["at_s"] < 0.5 <= found[0]["at_s"]
    assert found[2]["at_s"] is None
    said = capfd.readouterr().err
    assert "s on: 30, 50 Mbit/s (after 0.5 s)" in said
    assert "the change to 5 Mbit/s after 99 s never happened" in said


@pytest.mark.lab
@pytest.mark.timeout(60)
def test_jobs_behind_nat_on_lines_that_are_cut(capfd):
    options = ["--nat", "site0", "--change", "0.2s=up,cut 0.4s"]
    assert main(["lab", *options, "--", "sh", "-c", "sleep 1; echo $GEO_ACCEL_MEET"]) == 0
    printed = capfd.readouterr()
    assert sorted(printed.out.splitlines()) == ["[site0] 10.77.0.2:29400", "[site1] listen:29400"]
    assert "site0 (NAT)" in printed.err
    assert "s on: up, cut 0.4s (after 0.2 s)" in printed.err
    assert "s on: the line of site1 is up" in printed.err
