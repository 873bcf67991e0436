# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a value in the "geo_accel" block may be: one rule per kind of value, and how a refusal is worded."""

import difflib
import json
import math
import numbers
import os
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from geo_accel.config.names import AUTO

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class ConfigError(ValueError):
    """Every problem found in a config, one line each.

    `problems` holds the lines. Commands print the message and leave with exit code 2.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(kw_only=True, slots=True, frozen=True)
class Rule:
    """What one setting may be."""

    kind: str
    """What kind of value it is, in a word or two, for documentation."""
    allowed: str
    """The allowed values in words, for error messages and documentation."""
    read: Callable[[str, object, list[str]], object]
    """`read(key, value, problems)` gives the value as it is stored, or AUTO and one more line in `problems`."""


class _Refused(Exception):
    """Why a value cannot be taken, as a hint for the user; empty where the allowed values say it all."""


def shown(value: object) -> str:
    """A value as it would be written in JSON where it can be, on one line, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return json.dumps(text)
    try:
        return " ".join(_SHORT.repr(value).split())
    except (ValueError, RecursionError):  # an int of thousands of digits; a structure nested too deeply
        return f"{type(value).__name__} too long to show"


def plain(name: object) -> str:
    """A key or file name fit for the middle of a one-line message."""
    text = name if isinstance(name, str) else shown(name)
    text = text if len(text) <= 200 else text[:197] + "..."
    return text if text and text.isprintable() and text.isascii() else json.dumps(text)


def refusal(key: str, value: object, allowed: str, hint: str = "") -> str:
    """The line for a value that is not allowed."""
    return f"{key}: got {shown(value)}; allowed: {allowed}" + (f" ({hint})" if hint else "")


def nearest(word: object, names: Iterable[str]) -> tuple[str, float]:
    """The name that looks most like `word`, and how alike they are from 0 to 1. `names` must not be empty."""
    text = word.lower()[:100] if isinstance(word, str) else ""
    scored = ((name, difflib.SequenceMatcher(None, text, name.lower()).ratio()) for name in names)
    return max(scored, key=lambda pair: pair[1])


def whole(*, at_least: int) -> Rule:
    """AUTO or an int."""

    def parse(value: object) -> int:
        number = _number(value)
        if not isinstance(number, numbers.Integral):
            raise _Refused("it must be whole")
        if number < at_least:
            raise _Refused("")
        return int(number)

    return _or_auto("whole number", f"a whole number >= {at_least}", parse)


def real(*, above: float | None = None, at_least: float | None = None, at_most: float | None = None) -> Rule:
    """AUTO or a finite float; an int is taken as a float."""
    bounds = ((">", above), (">=", at_least), ("<=", at_most))
    allowed = "a number " + " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
    return _or_auto("number", allowed, lambda value: read_real(value, above=above, at_least=at_least, at_most=at_most))


def choice(*names: str) -> Rule:
    """One of `names`."""
    allowed = ", ".join(f'"{name}"' for name in names)

    def parse(value: object) -> str:
        if isinstance(value, str) and value in names:
            return value
        near, likeness = nearest(value, names)
        raise _Refused(f'did you mean "{near}"?' if likeness >= 0.6 else "")

    return Rule(kind="name", allowed=allowed, read=_reader(allowed, parse))


def switch() -> Rule:
    """true or false."""

    def parse(value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise _Refused("without quotes" if isinstance(value, str) and value.lower() in ("true", "false") else "")

    return Rule(kind="switch", allowed="true or false", read=_reader("true or false", parse))


def word(meaning: str) -> Rule:
    """AUTO or a text without blanks."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value and not any(c.isspace() or not c.isprintable() for c in value):
            return value
        raise _Refused("")

    return _or_auto("text", meaning, parse)


def file(meaning: str) -> Rule:
    """AUTO or a path, kept as text."""

    def parse(value: object) -> str:
        path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
        if isinstance(path, str) and path.strip() and path.isprintable():
            return path
        raise _Refused("")

    return _or_auto("path", meaning, parse)


def sizes(meaning: str) -> Rule:
    """AUTO or a list of ints >= 1."""

    def parse(value: object) -> list[int]:
        if not isinstance(value, list | tuple):
            raise _Refused("")
        if not value:
            raise _Refused("it is empty")
        for size in value:
            if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1:
                raise _Refused(f"{shown(size)} is not a whole number >= 1")
        return [int(size) for size in value]

    return _or_auto("list", meaning, parse)


def read_real(
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float:
    """A finite float within bounds. Raises `_Refused` with a hint otherwise."""
    try:
        number = float(_number(value))
    except OverflowError:
        raise _Refused("it is too large") from None
    if not math.isfinite(number):
        raise _Refused("it must be finite")
    too_low = (above is not None and not number > above) or (at_least is not None and number < at_least)
    if too_low or (at_most is not None and number > at_most) or (below is not None and not number < below):
        raise _Refused("")
    return number


def real_within(key: str, value: object, allowed: str, problems: list[str], **bounds: float) -> float | None:
    """Like `real`, without AUTO: the float, or None and a line added to `problems`."""
    try:
        return read_real(value, **bounds)
    except _Refused as refused:
        problems.append(refusal(key, value, allowed, str(refused)))
        return None


def _number(value: object) -> numbers.Real:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise _Refused("") from None
        if not math.isfinite(number):
            raise _Refused("")
        # YAML 1.1 reads 1e-3 as text: it wants the point.
        in_yaml = ", in YAML with a point: 1.0e-3" if "e" in value.lower() else ""
        raise _Refused(f"it is text: write {value.strip()} without quotes{in_yaml}")
    raise _Refused("")


def _or_auto(kind: str, meaning: str, parse: Callable[[object], object]) -> Rule:
    allowed = f'"{AUTO}" or {meaning}'
    return Rule(
        kind=kind,
        allowed=allowed,
        read=_reader(allowed, lambda value: AUTO if isinstance(value, str) and value == AUTO else parse(value)),
    )


def _reader(allowed: str, parse: Callable[[object], object]) -> Callable[[str, object, list[str]], object]:
    def read(key: str, value: object, problems: list[str]) -> object:
        try:
            return parse(value)
        except _Refused as refused:
            problems.append(refusal(key, value, allowed, str(refused)))
            return AUTO

    return read
