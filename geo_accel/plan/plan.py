# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A plan: for each step of a period, what starts, with which codec, and when it is applied."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Part `part` of `parts` equal parts of a unit; a whole unit is part 0 of 1."""

    unit: int
    part: int = 0
    parts: int = 1

    def bounds(self, length: int) -> tuple[int, int]:
        """First and past-the-last element of this part of a vector of `length` elements."""
        return length * self.part // self.parts, length * (self.part + 1) // self.parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The same on all ranks, checked by hash. Step k of a run is step `(k - adopted) % period` of the plan."""

    mode: str
    schedule: str
    period: int
    delay: int
    """Steps between start and application of a round; 0 in mode "blocking"."""
    codec: str
    exchange: str
    """"direct" or "two-shot"."""
    units: tuple[tuple[str, int], ...]
    """Names and element counts, in backward order."""
    starts: tuple[tuple[Piece, ...], ...]
    """Per step of the period, the pieces that start there as one round; empty where nothing starts."""
    reason: str = ""
    """Why this plan, for people."""

    def __post_init__(self) -> None:
        if len(self.starts) != self.period:
            raise ValueError(f"plan: {len(self.starts)} steps listed for a period of {self.period}.")
        if self.delay > self.period:
            raise ValueError(f"plan: delay {self.delay} exceeds the period {self.period}.")
        covered: dict[int, set[tuple[int, int]]] = {}
        for piece in (piece for step in self.starts for piece in step):
            if not 0 <= piece.unit < len(self.units) or not 0 <= piece.part < piece.parts:
                raise ValueError(f"plan: there is no {piece} in a model of {len(self.units)} units.")
            covered.setdefault(piece.unit, set()).add((piece.part, piece.parts))
        for unit, (name, _) in enumerate(self.units):
            parts = covered.get(unit, set())
            if len({total for _, total in parts}) != 1 or len(parts) != next(iter(parts))[1]:
                raise ValueError(f"plan: unit {name} is not synchronised whole and once per period.")

    def to_json(self) -> str:
        fields = asdict(self)
        fields["starts"] = [[[p.unit, p.part, p.parts] for p in step] for step in self.starts]
        return json.dumps({"version": VERSION, **fields}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Raises ValueError for text that is no plan of this version."""
        try:
            fields: Mapping[str, Any] = json.loads(text)
            if fields["version"] != VERSION:
                raise ValueError(f"plan: version {fields['version']} is not {VERSION}.")
            known = {key: value for key, value in fields.items() if key != "version"}
            known["units"] = tuple((name, int(numel)) for name, numel in known["units"])
            known["starts"] = tuple(tuple(Piece(*piece) for piece in step) for step in known["starts"])
            return cls(**known)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"plan: not a plan ({type(error).__name__}: {error}).") from None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the plan."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
