# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.lab import relay
from geo_accel.lab.relay import ETHERNET_BYTES, NOT_SEGMENTED, OFFLOAD, TCP_SEGMENTS, folded

SIZE, OPTIONS = 100, b"\x01" * 12
SEQUENCE, IDENTITY = 2**32 - 150, 0xFFFF
CWR_PSH_ACK = 0x98


def packet(nbytes: int, *, size: int = SIZE) -> bytes:
    """What a site's kernel hands over: a TCP packet to site 1 to be cut into segments of `size` bytes."""
    tcp_bytes = 20 + len(OPTIONS)
    kind, size = (TCP_SEGMENTS, size) if nbytes > size else (NOT_SEGMENTED, 0)
    offload = OFFLOAD.pack(1, kind, ETHERNET_BYTES + 20 + tcp_bytes, size, ETHERNET_BYTES + 20, 16)
    ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + tcp_bytes + nbytes, IDENTITY, 0x4000, 64, 6, 0))
    ip += bytes([10, 77, 0, 1, 10, 77, 0, 2])
    ip[10:12] = struct.pack("!H", 0xFFFF ^ folded(ip))
    partial = folded(ip[12:20] + struct.pack("!HH", tcp_bytes + nbytes, 6))
    tcp = struct.pack("!HHIIBBHHH", 5000, 6000, SEQUENCE, 7, tcp_bytes // 4 << 4, CWR_PSH_ACK, 512, partial, 0)
    payload = bytes(i % 251 for i in range(nbytes))
    return offload + bytes([2, 0, 10, 77, 0, 1] * 2) + b"\x08\0" + ip + tcp + OPTIONS + payload


def as_segments(one: bytes) -> list[tuple[int, int, int, bytes]]:
    """What a card makes of a packet: sequence number, identity, flags and payload of each segment. Its headers add
    up."""
    _, kind, _, size, start, _ = OFFLOAD.unpack_from(one)
    frame = one[OFFLOAD.size :]
    ip, tcp, payload = frame[14:34], frame[start : start + 32], frame[start + 32 :]
    assert folded(ip) == 0xFFFF
    assert struct.unpack("!H", ip[2:4])[0] == len(frame) - 14
    assert struct.unpack("!H", tcp[16:18])[0] == folded(ip[12:20] + struct.pack("!HH", len(frame) - 34, 6))
    assert kind == (TCP_SEGMENTS if size else NOT_SEGMENTED)
    assert not size or len(payload) > size
    identity, sequence, flags = *struct.unpack("!H", ip[4:6]), *struct.unpack("!I", tcp[4:8]), tcp[13]
    cuts = range(0, len(payload), size or len(payload))
    return [
        (
            (sequence + cut) % 2**32,
            (identity + number) % 2**16,
            flags & ~(0x80 if number else 0) & ~(0x09 if number < len(cuts) - 1 else 0),
            payload[cut : cut + (size or len(payload))],
        )
        for number, cut in enumerate(cuts)
    ]


@given(st.integers(1, 1000), st.data())
def test_what_is_not_lost_of_a_packet_arrives_as_it_would_have(nbytes, data):
    whole = packet(nbytes)
    expected = as_segments(whole)
    assert relay.segments(whole) == len(expected)
    lost = data.draw(st.lists(st.booleans(), min_size=len(expected), max_size=len(expected)))
    arrived = [segment for part in relay.without(whole, lost) for segment in as_segments(part)]
    assert arrived == [segment for segment, gone in zip(expected, lost, strict=True) if not gone]


@pytest.mark.parametrize("nbytes", [60, 950])
def test_as_many_segments_get_lost_as_was_asked(nbytes):
    random.seed(0)
    whole = packet(nbytes)
    count, times = relay.segments(whole), 20_000
    left = sum(relay.segments(part) for _ in range(times) for part in relay.survivors(whole, 0.02))
    assert 1 - left / (count * times) == pytest.approx(0.02, rel=0.1)


def test_what_is_no_tcp_to_be_cut_is_lost_as_a_whole():
    question = OFFLOAD.pack(0, NOT_SEGMENTED, 0, 0, 0, 0) + b"\xff" * 12 + b"\x08\x06" + bytes(28)
    assert relay.segments(question) == 1
    assert relay.survivors(question, 0.0) == [question]
    assert relay.survivors(question, 1.0) == []
