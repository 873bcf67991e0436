# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from geo_accel.commands.main import main
from geo_accel.version import __version__


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == f"geo-accel {__version__}"


def test_a_misspelt_subcommand_suggests_the_nearest(capsys):
    assert main(["lap", "--sites", "2"]) == 2
    assert capsys.readouterr().err == "geo-accel: error: there is no subcommand 'lap'; did you mean 'lab'?\n"


def test_an_unknown_subcommand_lists_what_there_is(capsys):
    assert main(["frobnicate"]) == 2
    assert "there are: lab" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["lab", "--sites", "x", "--", "true"], ["lab", "--sights", "2", "--", "true"]])
def test_wrong_arguments_get_one_line_and_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_command_starts_without_torch():
    script = "import sys, geo_accel.commands.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_reader_that_has_seen_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "geo_accel.commands.main",
        "simulate",
        "--model",
        "gpt2",
        "--bandwidth-mbps",
        "100",
    ]
    with open(writing, "wb") as nobody:
        ended = subprocess.run(
            [*command, "--flops", "1e13", "--json"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            timeout=60,
        )
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")
