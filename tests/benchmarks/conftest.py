# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites whose workers need not import: the rest of a run is as it is by hand."""

import pytest

from benchmarks.kit import runner


@pytest.fixture
def forked_sites(python_m, monkeypatch):
    """The runner's workers come from fork servers, into the namespaces that the lab has made for them."""
    monkeypatch.setattr(runner, "WORKER", [*python_m, "benchmarks.kit.worker"])
