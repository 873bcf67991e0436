# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Files and folders are whole, or as they were before."""

import pytest

from geo_accel.profile.document import write_whole, write_whole_folder


def fail(path) -> None:
    if path.is_dir():
        path = path / "part"
    path.write_text("half")
    raise OSError("disk full")


def test_a_file_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_whole(path, lambda partial: partial.write_text("whole"))
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder"
    for text in ("first", "second"):
        write_whole_folder(path, lambda partial, text=text: (partial / "part").write_text(text))
    with pytest.raises(OSError, match="disk full"):
        write_whole_folder(path, fail)
    assert (path / "part").read_text() == "second" and list(path.parent.iterdir()) == [path]
