# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from geo_accel.sites import authority
from geo_accel.sites.credentials import Credentials, read_credentials


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
