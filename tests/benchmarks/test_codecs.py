# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of codecs runs and says what it measured. How fast they are is not tested."""

import json

import pytest
import torch

from benchmarks.codecs import CASES, HEADINGS, Speed, main


def test_every_codec_has_a_row_and_figures(tmp_path, capsys):
    threads = torch.get_num_threads()
    file = tmp_path / "codecs.json"
    assert main(["--rounds", "1", "--chunks", "1", "--json", str(file), "--markdown"]) == 0
    assert torch.get_num_threads() == threads
    record = json.loads(file.read_text())
    assert record["processor"]
    speeds = [Speed(**one) for one in record["speeds"]]
    assert [(speed.codec, speed.kept) for speed in speeds] == CASES
    by_name = {speed.codec: speed for speed in speeds}
    assert (by_name["fp32"].bits, by_name["int8"].bits, by_name["int4"].bits, by_name["int2"].bits) == (
        32,
        8.25,
        4.25,
        2.25,
    )
    for speed in speeds:
        assert speed.decode > 0 and speed.copy > 0
        assert speed.encode is None if speed.codec == "fp32" else speed.encode > 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(CASES) and lines[0] == f"| {' | '.join(HEADINGS)} |"


def test_a_row_by_hand():
    assert Speed("int8", 0, 8.25, 3e9, 1e10, 1.25e10).cells() == ["int8", "8.25", "3.00", "10.00", "12.50"]
    assert Speed("topk", 41, 0.1654, 1e9, 2e9, 4e9).cells()[:2] == ["topk, 41 of 4096", "0.165"]
    assert Speed("fp32", 0, 32, None, 2e9, 4e9).cells() == ["fp32", "32", "–", "2.00", "4.00"]


@pytest.mark.parametrize("option", ["--rounds", "--chunks"])
def test_nothing_to_measure_is_refused(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([option, "0"])
    assert stopped.value.code == 2 and "at least 1" in capsys.readouterr().err
