# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The pipes to a process of the lab's own."""

from typing import IO, AnyStr


def pipe(stream: IO[AnyStr] | None) -> IO[AnyStr]:
    """`stream`, of a process that was started with a pipe there, which its type does not tell."""
    assert stream is not None
    return stream
