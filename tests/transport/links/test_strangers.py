# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Whoever else finds the port is refused in one line, and training goes on."""

import socket
import ssl
import threading
from dataclasses import replace

import pytest
import torch

from geo_accel.sites.first_bytes import FirstBytes, For
from geo_accel.transport.identity import Identity, Message
from geo_accel.transport.links import links
from geo_accel.transport.links.frames import Frame, Head, Kind
from tests.transport.links.linked import LOOPBACK, Linked, keys
from tests.transport.links.test_faults import swap


def over_tls(stranger: socket.socket, context: ssl.SSLContext, data: bytes) -> bytes:
    """What is answered to `data`."""
    with context.wrap_socket(stranger) as connection:
        connection.sendall(data)
        return connection.recv(4096)


def without_certificate(stranger, linked, elsewhere):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    over_tls(stranger, context, b"hello")


def of_another_authority(stranger, linked, elsewhere):
    context = elsewhere[1].client()
    context.verify_mode = ssl.CERT_NONE
    over_tls(stranger, context, b"hello")


def says_garbage(stranger, linked, elsewhere):
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)


def says_nothing(stranger, linked, elsewhere):
    pass


def announces_too_much(stranger, linked, elsewhere):
    over_tls(stranger, linked.credentials[1].client(), Head(Kind.HELLO, 2**31).to_bytes())


def of_another_run(stranger, linked, elsewhere):
    hello = replace(linked.ways(1).hello(0, 1), run="another")
    answer = over_tls(stranger, linked.credentials[1].client(), Frame(Kind.HELLO, body=hello.to_bytes()).to_bytes())
    assert b"it is of run 'another', this end of run '" in answer


def says_it_is_another_site(stranger, linked, elsewhere):
    hello = linked.ways(1).hello(0, 1)
    answer = over_tls(stranger, linked.credentials[0].client(), Frame(Kind.HELLO, body=hello.to_bytes()).to_bytes())
    assert b"it shows a certificate of site site0" in answer


SAID = {
    without_certificate: "did not return a certificate",
    of_another_authority: "its certificate is refused: ",
    says_garbage: "came to nothing: ",
    says_nothing: "it was not ready in time",
    announces_too_much: "a HELLO of 2147483648 bytes was announced",
    of_another_run: "it is of run 'another'",
    says_it_is_another_site: "it shows a certificate of site site0, which is not the one that site1 came with",
}


@pytest.fixture(scope="module")
def other_keys(tmp_path_factory):
    """Of the same sites' names, by another authority."""
    return keys(tmp_path_factory.mktemp("other") / "run", 2)


@pytest.mark.parametrize("behaves", SAID, ids=lambda behaves: behaves.__name__)
def test_a_stranger_is_refused_with_one_warning_and_disturbs_nothing(
    three_keys, other_keys, behaves, caplog, monkeypatch
):
    monkeypatch.setattr(links, "STRANGER_S", 1.0)
    over = threading.Event()

    def come(linked):
        for _ in range(3):
            with socket.create_connection((LOOPBACK, linked.ports[0].number), timeout=20) as stranger:
                stranger.sendall(FirstBytes(whom=For.PROCESS, number=0).to_bytes())
                try:
                    behaves(stranger, linked, other_keys)
                    while stranger.recv(4096):
                        pass
                except (ConnectionError, ssl.SSLError, OSError) as error:
                    assert not isinstance(error, TimeoutError)

    with Linked(three_keys[:2], (0,)) as linked:

        def stranger_comes():
            try:
                come(linked)
            finally:
                over.set()

        def work(transport):
            swap(transport)
            me, is_over, step = transport.topology.rank, False, 1
            if me == 0:
                thread = threading.Thread(target=stranger_comes)
                thread.start()
            while not is_over:
                swap(transport, step, 300_000)
                # Both end at the same step: the first says when.
                room = torch.zeros(1, dtype=torch.uint8)
                said = torch.tensor([over.is_set()]).to(torch.uint8)
                transport.swap({1 - me: said}, {1 - me: room}, Message(Identity(kind="beat", step=step)))
                is_over, step = bool((said if me == 0 else room).item()), step + 1
            if me == 0:
                thread.join()
            return True

        assert linked.on_all(work) == [True, True]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and SAID[behaves] in warnings[0] and "\n" not in warnings[0], warnings


def test_many_who_say_nothing_make_way(three_keys, monkeypatch):
    """More than are let wait: the oldest are closed, and the next swap goes on."""
    with Linked(three_keys[:2], (0,)) as linked:
        strangers = []

        def work(transport):
            monkeypatch.setattr(transport, "_most_openings", 8)
            swap(transport)
            for step in range(1, 6):
                if transport.topology.rank == 0:
                    for _ in range(20):
                        stranger = socket.create_connection((LOOPBACK, linked.ports[0].number))
                        stranger.sendall(FirstBytes(whom=For.PROCESS, number=0).to_bytes())
                        strangers.append(stranger)
                swap(transport, step, 10**6)
            return len(transport._openings)

        waiting, none = linked.on_all(work)
    assert waiting <= 8 and none == 0 and len(strangers) == 100
    for stranger in strangers:
        stranger.close()
