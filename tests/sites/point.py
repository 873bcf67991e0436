# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A meeting point on loopback, and what comes to it."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from geo_accel.sites.credentials import Credentials
from geo_accel.sites.first_bytes import FirstBytes, For
from geo_accel.sites.host import Host
from geo_accel.sites.meeting import Arrival
from geo_accel.sites.port import Port
from geo_accel.sites.visit import Visit


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


def until(holds: Callable[[], object], within_s: float = 10.0) -> None:
    """Waits until `holds()`; AssertionError where it does not come to that."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
