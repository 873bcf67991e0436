# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import socket
import ssl
from contextlib import closing

import pytest

from geo_accel.sites.first_bytes import FirstBytes, For
from geo_accel.sites.port import Port
from geo_accel.transport.links.lines import LineBrokenError, LineRefusedError, broken, secured
from tests.transport.links.linked import LOOPBACK


def alert(reason):
    error = ssl.SSLError(1, "it said so")
    error.reason = reason
    return broken(error)


def test_only_what_is_said_of_certificates_is_a_refusal():
    for reason in ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE", "TLSV1_ALERT_UNKNOWN_CA"):
        assert isinstance(alert(reason), LineRefusedError)
    for reason in ("SSLV3_ALERT_UNEXPECTED_MESSAGE", "TLSV1_ALERT_INTERNAL_ERROR", "WRONG_VERSION_NUMBER", None):
        assert type(alert(reason)) is LineBrokenError


def test_a_connection_that_was_reset_before_tls_began_is_a_broken_line(three_keys):
    with socket.create_server((LOOPBACK, 0)) as server:
        dialled = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        dialled.sendall(b"something")
        dialled.close()
        with closing(accepted), pytest.raises(LineBrokenError):
            connection = secured(three_keys[0].server(), accepted, server=True)
            with closing(connection):
                try:
                    connection.do_handshake()
                except OSError as error:
                    raise broken(error) from error


def test_an_end_that_dials_a_relay_again_is_never_joined_with_itself():
    def dial(port, first):
        connection = socket.create_connection((LOOPBACK, port.number), timeout=10)
        said = FirstBytes(whom=For.RELAY, number=3, token=b"t" * 16, side=0 if first else 1)
        connection.sendall(said.to_bytes())
        return connection

    with (
        closing(Port(LOOPBACK, 0, relays=lambda token: True)) as port,
        dial(port, True) as given_up,
        dial(port, True) as again,
    ):
        assert given_up.recv(1) == b""  # the later one takes its place
        with dial(port, False) as other:
            other.sendall(b"from the other end")
            assert again.recv(100) == b"from the other end"
