# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import itertools

from hypothesis import given
from hypothesis import strategies as st

from geo_accel.lab.output import UPDATE_INTERVAL_S, LineSplitter

PLAIN = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\x1b"), max_size=8)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(PLAIN), st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(0, 1000), max_size=6))
def test_lines_do_not_depend_on_how_the_bytes_arrive(lines, end, cuts):
    splitter, seen = LineSplitter(), []
    for piece in pieces(end.join([*lines, ""]).encode(), cuts):
        seen += splitter.feed(piece, 0.0)
    assert seen + splitter.feed(b"", 0.0) == lines


def test_a_last_line_without_an_end_is_not_lost():
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntwo", 0.0) == ["one"]
    assert splitter.feed(b"", 0.0) == ["two"]


def test_progress_bars_show_the_latest_update_once_per_interval():
    splitter = LineSplitter()
    assert splitter.feed(b"\r 10%\r 20%\r 30%", 0.0) == [" 20%"]
    assert splitter.feed(b"\r 40%\r", 0.1) == []
    assert splitter.tick(0.2) == []
    assert splitter.feed(b" 50%\r 60%", 0.3) == []
    assert splitter.tick(UPDATE_INTERVAL_S) == [" 50%"]
    assert splitter.tick(10.0) == []
    assert splitter.feed(b"\r100%\n", 10.0) == ["100%"]


def test_cursor_moves_vanish_and_colours_stay():
    assert LineSplitter().feed(b"\x1b[A\x1b[31mred\x1b[0m\x1b[K\n", 0.0) == ["\x1b[31mred\x1b[0m"]


def test_bytes_that_are_no_text_do_not_stop_the_output():
    assert LineSplitter().feed(b"a\xffb\n", 0.0) == ["a�b"]
