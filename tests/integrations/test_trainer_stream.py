# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where a stream goes on after a checkpoint."""

import logging
import sys

import pytest

from geo_accel.integrations.trainer_stream import StreamPosition


@pytest.mark.parametrize(
    "events, position",
    [
        ([2, 1], (0, 3)),  # in the first pass, as Trainer has it
        ([2, 1, None, 2], (1, 2)),
        ([3, None], (1, 0)),  # saved as a pass ended
        ([3, 0], (0, 3)),
    ],
)
def test_a_stream_goes_on_in_its_own_pass(tmp_path, events, position):
    before = StreamPosition("oslo.1")
    before.resume(None, 0, 0, sys.maxsize)
    for batches in events:
        if batches is None:
            before.end_pass()
        else:
            before.took(batches)
    before.save(tmp_path)
    after = StreamPosition("oslo.1")
    assert after.resume(str(tmp_path), 0, 99, sys.maxsize) == position
    after.took(1)
    assert (after.passes, after.batches) == (position[0], position[1] + 1)


def test_data_with_a_length_are_trainers_own_business(tmp_path):
    position = StreamPosition("oslo.0")
    assert position.resume(str(tmp_path), 2, 5, 3) == (2, 5)
    position.save(tmp_path)
    assert not list(tmp_path.iterdir())
    assert StreamPosition("oslo.0").resume(None, 0, 0, sys.maxsize) == (0, 0)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"passes": "x"}'])
def test_a_checkpoint_that_does_not_say_is_named(tmp_path, caplog, content):
    if content is not None:
        (tmp_path / "geo_accel").mkdir()
        (tmp_path / "geo_accel" / "oslo.0.stream.json").write_text(content)
    with caplog.at_level(logging.WARNING, "geo_accel"):
        assert StreamPosition("oslo.0").resume(str(tmp_path), 0, 4, sys.maxsize) == (0, 4)
    assert "does not say where this rank was in its stream; 4 batches of one pass are skipped" in caplog.text
