# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Readers of arguments for argparse, each of which words its refusal."""

import argparse
import math
from collections.abc import Callable

from geo_accel.config.names import AUTO


def count(at_least: int, auto: bool = True) -> Callable[[str], int | str]:
    """A reader of whole numbers, and of "auto" where that is allowed."""

    def read(text: str) -> int | str:
        if auto and text == AUTO:
            return text
        if not (text.isascii() and text.isdecimal() and len(text) < 7) or int(text) < at_least:
            other = " or auto" if auto else ""
            raise argparse.ArgumentTypeError(f"{text!r} given; allowed: a whole number from {at_least} on{other}")
        return int(text)

    return read


def positive_or_0(text: str) -> float:
    """A finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} given; allowed: a finite number that is not negative")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = positive_or_0(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} given; allowed: a number above 0")
    return value


def share(text: str) -> float | str:
    """A number above 0, at most 1, or "auto"."""
    if text == AUTO:
        return text
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} given; allowed: a share above 0, at most 1, or auto")
    return value


def pair(text: str) -> tuple[str, str]:
    """Two names with an equals sign between them."""
    one, _, other = text.partition("=")
    if not one or not other:
        raise argparse.ArgumentTypeError(f"{text!r} given; write it as in transformer.wte=lm_head")
    return one, other


def numbers(example: str) -> Callable[[str], list[float]]:
    """A reader of numbers that commas separate; `example` shows how."""

    def read(text: str) -> list[float]:
        try:
            return [float(word) for word in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} given; numbers are separated by commas, as in {example}"
            ) from None

    return read
