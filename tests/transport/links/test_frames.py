# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import random
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.transport.identity import HEADER_BYTES
from geo_accel.transport.links.frames import HEAD_BYTES, LARGEST_CHUNK, Frame, FrameError, Frames, Head, Kind

KEPT_BYTES = HEAD_BYTES + 4096
"""What may be kept of a control line: a frame that is almost whole, of the longest kind."""
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)

_bodies = {Kind.HELLO: st.binary(max_size=4096), Kind.HEADER: st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES)}
_bodies |= dict.fromkeys((Kind.REFUSED, Kind.BYE), st.binary(max_size=1024))
frames_of_control = st.sampled_from([kind for kind in Kind if kind != Kind.CHUNK]).flatmap(
    lambda kind: st.builds(Frame, st.just(kind), U64, U32, _bodies.get(kind, st.just(b"")))
)


def fed(pieces):
    """The frames of a stream that comes in such pieces, and whether they end with an error."""
    frames, found = Frames(), []
    for piece in pieces:
        try:
            found += frames.feed(piece)
        except FrameError:
            return found, True
        assert len(frames._bytes) < KEPT_BYTES
    return found, False


def cut(data, places):
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[lo:hi] for lo, hi in pairwise(ends)]


@given(st.lists(frames_of_control, max_size=8), st.lists(st.integers(0, 2**16), max_size=12))
def test_any_split_of_a_stream_gives_the_same_frames(frames, places):
    data = b"".join(frame.to_bytes() for frame in frames)
    assert fed(cut(data, places)) == (frames, False)
    assert fed([data[i : i + 1] for i in range(len(data))] if len(data) < 500 else [data]) == (frames, False)


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2**16), max_size=5))
def test_any_bytes_are_frames_or_a_frame_error(data, places):
    fed(cut(data, places))


@given(st.integers(0, 255), U32, U64, U32)
def test_a_head_is_what_it_says_or_a_frame_error(kind, length, transfer, chunk):
    data = kind.to_bytes(1, "big") + bytes(3) + length.to_bytes(4, "big") + transfer.to_bytes(8, "big")
    data += chunk.to_bytes(4, "big")
    assert len(data) == HEAD_BYTES
    try:
        head = Head.from_bytes(data)
    except FrameError as error:
        assert "\n" not in str(error)
    else:
        assert (head.kind, head.length, head.transfer, head.chunk) == (kind, length, transfer, chunk)
        assert head.length <= LARGEST_CHUNK and head.to_bytes() == data


@pytest.mark.parametrize(
    ("kind", "length", "said"),
    [
        (99, 0, "there is no frame of kind 99"),
        (Kind.CHUNK, LARGEST_CHUNK + 1, "a CHUNK of 1048577 bytes was announced; it has 1 to 1048576"),
        (Kind.CHUNK, 0, "a CHUNK of 0 bytes"),
        (Kind.HEADER, HEADER_BYTES - 1, f"a HEADER of {HEADER_BYTES - 1} bytes was announced; it has {HEADER_BYTES}"),
        (Kind.GOT, 1, "a GOT of 1 bytes was announced; it has 0"),
        (Kind.HELLO, 2**32 - 1, "a HELLO of 4294967295 bytes"),
    ],
)
def test_what_no_frame_can_be_is_refused_as_soon_as_its_head_is_there(kind, length, said):
    data = Head(kind, length).to_bytes()
    with pytest.raises(FrameError, match=said):
        Head.from_bytes(data)
    with pytest.raises(FrameError):
        Frames().feed(data)


def test_payload_is_refused_on_the_control_line():
    with pytest.raises(FrameError, match="payload came over the line that is for control"):
        Frames().feed(Head(Kind.CHUNK, 10).to_bytes())


def test_a_million_frames_with_bytes_changed():
    """Every stream is a few hundred frames, of which some bytes are others than were sent."""
    noise = random.Random(0)
    clean = [Frame(Kind.GOT, 7, 3), Frame(Kind.DONE, 7), Frame(Kind.HEADER, 7, body=bytes(HEADER_BYTES))]
    clean += [Frame(Kind.GOT, 7, i) for i in range(4, 200)]
    stream, understood, refused = b"".join(frame.to_bytes() for frame in clean), 0, 0
    for _ in range(10**6 // len(clean)):
        data = bytearray(stream)
        place = noise.randrange(len(data))
        data[place : place + 4] = noise.randbytes(min(4, len(data) - place))
        frames = Frames()
        for lo in range(0, len(data), 1500):
            with suppress(FrameError):
                understood += len(frames.feed(data[lo : lo + 1500]))
                continue
            refused += 1
            break
        assert len(frames._bytes) < KEPT_BYTES + 1500
    assert understood > 10**5 and refused > 10**3


@given(st.text(max_size=3000))
def test_words_of_any_kind_fit_and_arrive_in_one_line(words):
    frame = Frame.of_words(Kind.REFUSED, words)
    (heard,) = Frames().feed(frame.to_bytes())
    assert heard == frame and "\n" not in heard.words and len(heard.body) <= 1024
    if words.isascii() and len(words) <= 1024:
        assert heard.words == " ".join(words.split())
