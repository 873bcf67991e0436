# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What tests of `geo-accel plan` share: a profile, a plan, and the ways to call it."""

import json

import pytest

from geo_accel.commands.main import main
from tests.commands.small_gpt2 import gpt2


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
