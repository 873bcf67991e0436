# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a user can mend is one line and exit code 2; a lost site is 3; a defect keeps its traceback."""

import time

import pytest
import torch

from geo_accel import ConfigError, SiteLostError
from geo_accel.config import load_config
from recipes import exits
from recipes.exits import run_recipe, user_errors


def ending(error):
    def run(arguments):
        raise error

    return run


def set_up(arguments):
    with user_errors():
        int("not a number")


@pytest.mark.parametrize(
    ("run", "code", "start"),
    [
        (lambda arguments: None, 0, ""),
        (set_up, 2, "error: invalid literal"),
        (ending(ConfigError(["sync.period: 0", "sync.mode: x"])), 2, "error: sync.period: 0; sync.mode: x"),
        (ending(SiteLostError("site b fell silent")), 3, "site lost: site b fell silent"),
        (lambda arguments: load_config({"snyc": {}}), 2, "error: "),
    ],
)
def test_exit_codes(capsys, run, code, start):
    assert run_recipe(run, []) == code
    said = capsys.readouterr().err
    assert said.startswith(start) and said.count("\n") == (code != 0)


@pytest.mark.parametrize("world, takes_s, words", [("2", 0.5, 1), ("2", 0.0, 0), ("1", 0.5, 0)])
def test_who_waits_long_for_the_others_of_its_job_says_so_once(capsys, monkeypatch, world, takes_s, words):
    for name, value in {"RANK": "0", "WORLD_SIZE": world, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(exits, "_SAID_AFTER_S", 0.2)

    @exits.awaiting_ranks()
    def join():
        time.sleep(takes_s)

    join()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == words
    assert all(
        line.startswith("rank 0 of 2 has been waiting for the others at 10.0.0.1:29500 for 0.2 s: are all machines")
        for line in lines
    )


def test_ranks_that_do_not_meet_are_a_user_error(capsys, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)

    def run(arguments):
        with user_errors():
            raise torch.distributed.DistNetworkError("timed out")

    assert run_recipe(run, []) == 2
    assert "rank 1 of 2 did not meet the others at 10.0.0.1:29500" in capsys.readouterr().err


def test_a_defect_in_training_keeps_its_traceback():
    def run(arguments):
        torch.zeros(2).view(3)

    with pytest.raises(RuntimeError):
        run_recipe(run, [])
    with pytest.raises(ValueError, match="invalid literal"):
        run_recipe(lambda arguments: int("not a number"), [])
