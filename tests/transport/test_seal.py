# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.transport.identity import Header, Identity
from geo_accel.transport.seal import checksum_of, damage, wrong_length


def header_of(payload):
    return Header(identity=Identity(kind="round"), nbytes=payload.nbytes, checksum=checksum_of(payload))


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_changed_byte_is_seen(content, data):
    payload = torch.tensor(list(content), dtype=torch.uint8)
    header = header_of(payload)
    assert damage(payload, header) is None and wrong_length(payload, header) is None
    place = data.draw(st.integers(0, len(content) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    assert damage(payload, header) == f"the checksum of its {len(content)} bytes is wrong"


def test_a_payload_that_was_cut_off_is_seen():
    payload = torch.arange(100, dtype=torch.uint8)
    assert wrong_length(payload, header_of(payload[:60])) == "60 bytes were sent where 100 were expected"


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_lengths_are_in_bytes(dtype):
    values = torch.ones(8, dtype=dtype)
    assert header_of(values).nbytes == 8 * values.element_size() and wrong_length(values, header_of(values)) is None
