# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Settings whose value may be a small mapping: the outer step, and overlap weighting.

Each has its allowed values in words and a reader as `rules.Rule` wants it, but for `unknown`: a key that does
not exist may belong elsewhere in the block, and only the whole block knows that.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from geo_accel.config.names import AUTO, Auto
from geo_accel.config.rules import real_within, refusal

Unknown = Callable[[str, object, Iterable[str]], str]
"""`unknown(prefix, name, siblings)` words the refusal of the key `name`."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Outer:
    """The outer step: SGD with Nesterov momentum on the agreed change of all sites. lr 1 without momentum is the mean.

    A plain value, as the config's other parts are: `load_config` and plans say what of it cannot be.
    """

    lr: float = 1.0
    """Outer learning rate, > 0."""
    momentum: float = 0.0
    """0 <= momentum < 1."""

    def __str__(self) -> str:
        if self == Outer():
            return "mean"
        return f"Nesterov, lr {self.lr:g}, momentum {self.momentum:g}"

    def to_dict(self) -> dict[str, Any]:
        """The form that `load_config` reads."""
        if self == Outer():
            return {"type": "mean"}
        return {"type": "nesterov", "lr": self.lr, "momentum": self.momentum}


@dataclass(kw_only=True, slots=True, frozen=True)
class Overlap:
    """Overlap weighting (OPWA, arXiv:2408.14736): what few sites sent counts more. `Overlap()` weighs nothing."""

    threshold: int = 0
    """What at most so many sites sent is weighed."""
    gain: float = 1.0
    """By how much, at most N / senders."""

    @classmethod
    def mean_of_senders(cls, sites: int) -> "Overlap":
        """The one that makes an average over `sites` sites the mean over those that sent."""
        return cls(threshold=sites, gain=float(sites))

    def to_dict(self) -> dict[str, Any]:
        """The form that `load_config` reads."""
        return {"threshold": self.threshold, "gain": self.gain}


_OUTER_PARTS = {"type": '"mean", "nesterov"', "lr": "a number > 0", "momentum": "a number >= 0 and < 1"}
OUTER_ALLOWED = '"auto", "mean", {"type": "mean"} or {"type": "nesterov", "lr": > 0, "momentum": >= 0 and < 1}'


def read_outer(key: str, value: object, problems: list[str], unknown: Unknown) -> Outer | Auto:
    """`sync.outer`."""
    if isinstance(value, Outer):
        value = value.to_dict()
    if isinstance(value, str):
        if value == AUTO:
            return AUTO
        value = {"type": value} if value == "mean" else value
    if not isinstance(value, Mapping):
        problems.append(refusal(key, value, OUTER_ALLOWED))
        return AUTO
    kind = value.get("type")
    names = {"mean": ("type",), "nesterov": ("type", "lr", "momentum")}.get(kind if isinstance(kind, str) else "")
    before = len(problems)
    if names is None and "type" in value:
        problems.append(refusal(f"{key}.type", kind, _OUTER_PARTS["type"]))
    for name in value:
        if name not in ("type", "lr", "momentum"):
            problems.append(unknown(f"{key}.", name, names or ("type", "lr", "momentum")))
        elif names and name not in names:
            problems.append(f'{key}.{name}: not used by type "{kind}"; remove it, or choose type "nesterov"')
    for name in names or ("type",):
        if name not in value:
            problems.append(f"{key}.{name}: missing; allowed: {_OUTER_PARTS[name]}")
    if kind == "mean" and len(problems) == before:
        return Outer()
    numbers: dict[str, float] = {}
    for name, bounds in (("lr", {"above": 0}), ("momentum", {"at_least": 0, "below": 1})):
        if name in value and kind != "mean":
            number = real_within(f"{key}.{name}", value[name], _OUTER_PARTS[name], problems, **bounds)
            if number is not None:
                numbers[name] = number
    return Outer(**numbers) if len(problems) == before else AUTO


OVERLAP_ALLOWED = '"auto", true, false or {"threshold": sites >= 1, "gain": >= 1}'


def read_overlap(key: str, value: object, problems: list[str], unknown: Unknown) -> bool | Overlap | Auto:
    """`compression.overlap_weighting`."""
    if isinstance(value, Overlap):
        value = value.to_dict()
    if not isinstance(value, Mapping):
        if isinstance(value, bool) or value == AUTO:
            return value
        hint = "without quotes" if isinstance(value, str) and value.lower() in ("true", "false") else ""
        problems.append(refusal(key, value, OVERLAP_ALLOWED, hint))
        return AUTO
    parts = {"threshold": "a whole number >= 1", "gain": "a number >= 1"}
    before = len(problems)
    problems += [unknown(f"{key}.", name, parts) for name in value if name not in parts]
    problems += [f"{key}.{name}: missing; allowed: {allowed}" for name, allowed in parts.items() if name not in value]
    if len(problems) > before:
        return AUTO
    gain = real_within(f"{key}.gain", value["gain"], parts["gain"], problems, at_least=1)
    threshold = real_within(f"{key}.threshold", value["threshold"], parts["threshold"], problems, at_least=1)
    if threshold is not None and threshold != int(threshold):
        problems.append(refusal(f"{key}.threshold", value["threshold"], parts["threshold"], "it must be whole"))
        threshold = None
    return AUTO if gain is None or threshold is None else Overlap(threshold=int(threshold), gain=gain)
