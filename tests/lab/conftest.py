# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Tests marked `lab` say why they are skipped where namespaces are not allowed."""

import pytest

from geo_accel.lab import why_unavailable


@pytest.fixture(scope="session")
def missing_for_the_lab() -> str | None:
    return why_unavailable()


@pytest.fixture(autouse=True)
def _skip_without_namespaces(request, missing_for_the_lab):
    if missing_for_the_lab and request.node.get_closest_marker("lab"):
        pytest.skip(missing_for_the_lab)
