# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import socket
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.sites.messages import LARGE, SMALL, hear, tell


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    one.settimeout(10)
    other.settimeout(10)
    yield one, other
    one.close()
    other.close()


def test_what_is_told_is_heard_in_order(pair):
    one, other = pair
    large = {"text": "x" * 10**6}
    telling = threading.Thread(target=lambda: [tell(one, message) for message in ({}, {"a": [1, None, "ü"]}, large)])
    telling.start()
    assert [hear(other, LARGE) for _ in range(3)] == [{}, {"a": [1, None, "ü"]}, large]
    telling.join()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"1", b"null", b"\xff\xfe\xff", b"[" * 50000, b'{"a":' * 9000, b'{"a": NaN}', b"9" * 9000],
    ids=lambda body: repr(body[:6]),
)
def test_what_is_no_message_is_a_connection_error(pair, body):
    one, other = pair
    one.sendall(len(body).to_bytes(4, "big") + body)
    with pytest.raises(ConnectionError, match="no JSON"):
        hear(other, SMALL)


def test_one_that_announces_too_much_is_dropped_without_waiting_for_it(pair):
    one, other = pair
    one.sendall((SMALL + 1).to_bytes(4, "big"))
    with pytest.raises(ConnectionError, match="65537 bytes was announced; 65536 are read at most"):
        hear(other, SMALL)


def test_no_more_memory_is_taken_than_has_arrived(pair):
    one, other = pair
    one.sendall(LARGE.to_bytes(4, "big") + b"x" * 1000)
    one.shutdown(socket.SHUT_WR)
    tracemalloc.start()
    try:
        with pytest.raises(ConnectionError, match="closed at the other end"):
            hear(other, LARGE)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_one_too_large_to_be_read_is_not_sent(pair):
    with pytest.raises(ValueError, match="is more than the"):
        tell(pair[0], {"text": "x" * LARGE})


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_connection_error(data):
    one, other = socket.socketpair()
    with one, other:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        for _ in range(200):
            try:
                assert isinstance(hear(other, SMALL), dict)
            except ConnectionError:
                return
        pytest.fail("more messages than bytes")
