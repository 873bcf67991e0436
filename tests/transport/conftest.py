# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from tests.transport.links.linked import keys


@pytest.fixture(scope="session")
def three_keys(tmp_path_factory):
    """Key files of site0 to site2."""
    return keys(tmp_path_factory.mktemp("authority") / "run", 3)
