# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What goes wrong between sites, with the name of who is missing."""

import re


class SiteLostError(RuntimeError):
    """A site died, fell silent or cannot be reached; training cannot go on with it."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        """`retryable`: what `retryable` says below."""
        super().__init__(message)
        self.retryable = retryable
        """Whether doing the same again, over a new transport, can help: the line failed, or who is at its other end.

        False where it would end the same way, as between sites that do unlike things.
        """


class DamagedPayloadError(SiteLostError):
    """What a site sent arrived cut off or changed; nothing of it was used."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)


class OutOfStepError(SiteLostError):
    """Sites do unlike things where all have to do the same; nothing of it was used."""


def cause_of(error: Exception) -> str:
    """The first line of a backend's message, without gloo's source location and its guesses."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[\S*/gloo/\S*\] ", "", text).split(". This is typically")[0][:160]
