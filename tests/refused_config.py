# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a config that cannot be used is refused with."""

import pytest

from geo_accel.config import ConfigError, load_config


def problems_of(source) -> list[str]:
    """The lines of the error, a problem each."""
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return str(caught.value).split("\n")


def only_problem_of(source) -> str:
    lines = problems_of(source)
    assert len(lines) == 1, lines
    return lines[0]
