# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import os
import socket

from geo_accel.transport import tcp_info
from geo_accel.transport.tcp_info import resent_segments


def test_connections_that_lose_nothing_resend_nothing_and_stay_usable():
    before = resent_segments()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as one:
        one.connect(server.getsockname())
        other, _ = server.accept()
        with other:
            assert resent_segments() == (before or 0)
            one.sendall(b"still open")
            assert other.recv(100) == b"still open"


def test_looking_leaves_no_file_open():
    with socket.socket() as one, socket.socket(socket.AF_UNIX) as other:
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(3):
            resent_segments()
        assert sorted(os.listdir("/proc/self/fd")) == before and one.fileno() != other.fileno()


def test_a_system_that_does_not_tell_says_nothing(monkeypatch):
    def refuse(_):
        raise FileNotFoundError("no /proc here")

    with monkeypatch.context() as without:
        without.setattr(tcp_info.os, "listdir", refuse)
        assert resent_segments() is None
    monkeypatch.setattr(tcp_info.sys, "platform", "darwin")
    assert resent_segments() is None
