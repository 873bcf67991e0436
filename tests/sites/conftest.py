# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import socket
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from geo_accel.sites import authority
from geo_accel.sites.credentials import Credentials, read_credentials
from geo_accel.sites.port import Port
from tests.sites.point import TOKEN, at_once, meeting_point


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> Path:
    """An authority with the sites a, b and c. Not to be changed."""
    pytest.importorskip("cryptography")
    folder = tmp_path_factory.mktemp("keys") / "keys"
    authority.init(folder)
    for site in "abc":
        authority.add(folder, site)
    return folder


@pytest.fixture(scope="session")
def credentials_of(keys) -> Callable[[str], Credentials]:
    return lambda site: read_credentials(keys / f"{site}.pem")


@pytest.fixture
def folder(tmp_path) -> Path:
    """An authority of the test's own, with the sites a and b."""
    pytest.importorskip("cryptography")
    authority.init(tmp_path / "own")
    for site in "ab":
        authority.add(tmp_path / "own", site)
    return tmp_path / "own"


@pytest.fixture(scope="session")
def long_ago() -> datetime:
    return datetime.now(timezone.utc) - timedelta(days=100)


@pytest.fixture
def point(credentials_of):
    with meeting_point(credentials_of("a"), expect=2) as one:
        yield one


@pytest.fixture
def visits(point, credentials_of):
    """Both sites', which are in."""
    both = at_once(*(lambda site=site: point.visit(credentials_of(site)) for site in "ab"))
    yield both
    for one in both:
        one.close()


@pytest.fixture
def shelves(visits):
    both = [one.shelf("x/") for one in visits]
    yield both
    for one in both:
        one.close()


@pytest.fixture
def opened():
    """A port, what its meeting point was given, and a stack that is closed at the end."""
    came: list[socket.socket] = []
    with ExitStack() as stack:
        one = Port("127.0.0.1", 0, came.append, lambda token: token == TOKEN)
        stack.callback(one.close)
        stack.callback(lambda: [connection.close() for connection in came])
        yield one, came, stack
