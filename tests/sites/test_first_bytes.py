# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.

from hypothesis import given
from hypothesis import strategies as st

from geo_accel.sites.first_bytes import FIRST_BYTES, FirstBytes, For, is_relay_token, relay_token


@given(
    st.builds(
        FirstBytes,
        whom=st.sampled_from(For),
        number=st.integers(0, 2**32 - 1),
        token=st.binary(min_size=16, max_size=16),
        side=st.integers(0, 1),
    )
)
def test_first_bytes_are_read_back(first):
    assert FirstBytes.from_bytes(first.to_bytes()) == first


@given(st.binary(min_size=FIRST_BYTES, max_size=FIRST_BYTES), st.booleans())
def test_any_other_bytes_are_none(data, with_magic):
    data = b"geo1" + data[4:] if with_magic else data
    first = FirstBytes.from_bytes(data)
    assert first is None or (first.to_bytes()[:5] == data[:5] and data[:4] == b"geo1")


@given(st.integers(0, 5000), st.integers(1, 5000), st.binary(min_size=16, max_size=16))
def test_tokens_are_a_runs_own_and_a_pairs_own(low, more, forged):
    secret = "ab" * 16
    token = relay_token(secret, low, low + more)
    assert len(token) == 16 and is_relay_token(secret, token)
    assert not is_relay_token("cd" * 16, token) and not is_relay_token(secret, forged)
    assert not is_relay_token(secret, token[:15] + bytes([token[15] ^ 1]))
    assert relay_token(secret, low, low + more + 1) != token
