# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of codecs runs and says what it measured. How fast they are is not tested."""

import json

import pytest
import torch

from benchmarks.codecs import CASES, main


def test_every_codec_has_a_row_and_figures(tmp_path):
    threads = torch.get_num_threads()
    assert main(["--rounds", "1", "--chunks", "1", "--results", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads
    rows = json.loads((tmp_path / "codecs" / "results.json").read_text())["figures"]
    assert len(rows) == len(CASES) and rows[-1]["name"] == "randk, 41 of 4096"
    assert [row["bits"] for row in rows[:5]] == [32, 16, 8.25, 4.25, 2.25]
    for row in rows:
        assert row["decode_gb_s"] > 0 and row["copy_gb_s"] > 0
        assert row["encode_gb_s"] is None if row["name"] == "fp32" else row["encode_gb_s"] > 0
    assert len((tmp_path / "codecs" / "table.md").read_text().splitlines()) == 4 + len(CASES)


@pytest.mark.parametrize("option", ["--rounds", "--chunks"])
def test_nothing_to_measure_is_refused(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([option, "0"])
    assert stopped.value.code == 2 and "at least 1" in capsys.readouterr().err
