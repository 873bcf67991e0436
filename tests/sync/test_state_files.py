# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Wherever a file of a sync state is cut off or changed, one line names it."""

import resource

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.sync.state_files import (
    read_objects,
    read_record,
    read_tensor,
    write_objects,
    write_record,
    write_tensor,
)

STATE = {"optimizer": {"state": {0: {"step": torch.tensor(3.0), "moment": torch.randn(7)}}, "lr": [1e-3, None]}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """By name: how to read the file, and its bytes as they were written."""
    folder = tmp_path_factory.mktemp("files")
    marks = {
        "a.pt": [write_objects(folder / "a.pt", STATE)],
        "b.safetensors": [write_tensor(folder / "b.safetensors", "outer", torch.randn(9))],
    }
    write_record(folder / "c.json", {"version": 3, "step": 5, "names": ["x", "ö"], "none": None})
    readers = {
        "a.pt": lambda path: read_objects(path, marks),
        "b.safetensors": lambda path: read_tensor(path, "outer", marks),
        "c.json": lambda path: read_record(path, 3),
    }
    return {name: (folder / name, read, (folder / name).read_bytes()) for name, read in readers.items()}


@given(name=st.sampled_from(["a.pt", "b.safetensors", "c.json"]), at=st.integers(0, 10**6), flip=st.integers(0, 255))
def test_cut_off_or_changed_anywhere_is_one_line_with_the_files_name(files, name, at, flip):
    path, read, data = files[name]
    at %= len(data)
    whole = read_back(path, read, data)
    damaged = data[:at] + (bytes([data[at] ^ flip]) + data[at + 1 :] if flip else b"")
    path.write_bytes(damaged)
    try:
        found = read(path)
    except ValueError as error:
        assert name in str(error) and "\n" not in str(error)
    else:
        assert name == "c.json" and found == whole  # white space, which says nothing


def read_back(path, read, data):
    path.write_bytes(data)
    return read(path)


def test_what_was_written_is_read(files):
    path, read, data = files["a.pt"]
    found = read_back(path, read, data)["optimizer"]
    assert torch.equal(found["state"][0]["moment"], STATE["optimizer"]["state"][0]["moment"])
    assert found["lr"] == [1e-3, None]


def test_numbers_of_numpy_are_read_back(tmp_path):
    best = {"scheduler": {"best": np.float64(0.5), "bad": np.int64(2), "last": np.float32(1)}}
    mark = write_objects(tmp_path / "a.pt", best)
    assert read_objects(tmp_path / "a.pt", {"a.pt": [mark]}) == best


def test_a_full_disk_is_told_with_the_file_and_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "a.pt"
    mark = write_objects(path, STATE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a\.pt could not be written \(File too large\)"):
            write_objects(path, {"large": torch.zeros(10**6)})
        with pytest.raises(OSError, match=r"b\.safetensors could not be written"):
            write_tensor(tmp_path / "b.safetensors", "outer", torch.zeros(10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"] and read_objects(path, {"a.pt": [mark]})


def test_objects_are_refused_before_anything_is_replaced(tmp_path):
    path = tmp_path / "a.pt"
    mark = write_objects(path, STATE)
    with pytest.raises(ValueError, match=r"a\.pt: this state holds Python objects"):
        write_objects(path, {"custom": object})
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"] and read_objects(path, {"a.pt": [mark]})
