# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A meeting point on loopback, and what comes to it."""

import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from geo_accel.sites.credentials import Credentials
from geo_accel.sites.first_bytes import FirstBytes, For, relay_token
from geo_accel.sites.host import Host
from geo_accel.sites.meeting import Arrival
from geo_accel.sites.port import Port
from geo_accel.sites.visit import Visit
from tests.processes import eventually

TOKEN = relay_token("5e" * 16, 0, 1)
"""Of a pair that `opened`'s port relays."""


@dataclass
class Point:
    """One that serves."""

    host: Host
    port: Port
    said: list[str]
    """By the host, to people."""

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port.number

    def visit(self, credentials: Credentials, deadline_s: float = 20.0, **more) -> Visit:
        site = credentials.site
        fields = {"site": site, "job": f"job of {site}", "place": 0, "size": 1, "machine": "m", "address": ":7"} | more
        return Visit(self.address, credentials, Arrival(**fields), deadline_s)

    def dial(self, first: FirstBytes | None = None) -> socket.socket:
        """Says the first bytes, and nothing more."""
        raw = socket.create_connection(self.address, timeout=10)
        raw.sendall((first or FirstBytes(whom=For.MEETING)).to_bytes())
        return raw

    def secure(self, credentials: Credentials) -> ssl.SSLSocket:
        return credentials.client().wrap_socket(self.dial())


@contextmanager
def meeting_point(credentials: Credentials, expect: int | None = None) -> Generator[Point]:
    said: list[str] = []
    host = Host(credentials, expect, said.append)
    port = Port("127.0.0.1", 0, host.talk, host.relays)
    try:
        yield Point(host, port, said)
    finally:
        port.close()
        host.close()


def at_once(*jobs: Callable[[], object]) -> list:
    """What the jobs return, each run on a thread of its own; the first error of any is raised."""
    results: list[object] = [None] * len(jobs)

    def work(number: int) -> None:
        try:
            results[number] = jobs[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits until `holds()`; AssertionError where it does not come to that in `seconds`."""
    assert eventually(lambda: bool(holds()), seconds), "it did not come to that"


def dial(opened, first: FirstBytes | bytes) -> socket.socket:
    one, _, stack = opened
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", one.number), timeout=10))
    connection.sendall(first if isinstance(first, bytes) else first.to_bytes())
    return connection


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def threads(name: str) -> list[str]:
    """Those of this process that are called so."""
    return [one.name for one in threading.enumerate() if one.name.startswith(name)]


def relayed(opened, number: int = 1) -> tuple[socket.socket, socket.socket]:
    ends = [dial(opened, FirstBytes(whom=For.RELAY, number=number, token=TOKEN, side=side)) for side in (0, 1)]
    until(lambda: (TOKEN, number) in opened[0]._relays._joined)
    return ends[0], ends[1]
