# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A plan: for each step of a period, what starts, how it is averaged, and when it is applied."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from geo_accel.config.names import MODES, Mode
from geo_accel.config.parts import Outer
from geo_accel.plan import by_site
from geo_accel.plan.averaging import Averaging, is_real
from geo_accel.plan.members import Members
from geo_accel.profile.document import parse, read

VERSION = 4
_WITHOUT_NAMES = 3
"""A version that goes by places, as this one does where it names no sites."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Part `part` of `parts` equal parts of a unit; a whole unit is part 0 of 1."""

    unit: int
    part: int = 0
    parts: int = 1

    def bounds(self, length: int) -> tuple[int, int]:
        """First and past-the-last element of this part of a vector of `length` elements."""
        return length * self.part // self.parts, length * (self.part + 1) // self.parts


Round = tuple[Piece, ...]
"""What travels together, in backward order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The same on all ranks, checked by hash. Step k of a run is step `(k - adopted) % period` of the plan.

    Raises ValueError, in one line, where it would leave a unit out or send one that is still on its way.
    """

    sites: tuple[str, ...] = ()
    """Whom it is for, in their order; empty: for as many as there are, by their places."""
    generation: int = 1
    """Of these sites."""
    mode: str
    schedule: str
    period: int
    delay: int
    """Steps between start and application of a round; 0 in the modes "blocking" and "backward"."""
    averaging: Averaging
    """Codec, exchange and average of all its rounds."""
    outer: Outer = field(default_factory=Outer)
    units: tuple[tuple[str, int], ...]
    """Names and element counts, in backward order."""
    rounds: tuple[tuple[Round, ...], ...]
    """Per step of the period, the rounds that start there, in the order in which they cross the link."""
    reason: str = ""
    """Why this plan, for people."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"plan: mode {self.mode!r} was found; allowed: {', '.join(MODES)}.")
        for key, value in [("period", self.period), ("delay", self.delay), *self.units]:
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"plan: {key} is {value!r}; it must be a whole number >= 0.")
        if not all(isinstance(site, str) and site for site in self.sites) or len({*self.sites}) < len(self.sites):
            raise ValueError(f"plan: sites are {list(self.sites)}; they must be names, each once.")
        if isinstance(self.generation, bool) or not isinstance(self.generation, int) or self.generation < 1:
            raise ValueError(f"plan: generation is {self.generation!r}; it must be a whole number >= 1.")
        if self.sites:
            self.averaging.require_sites(len(self.sites))
        if not is_real(self.outer.lr) or self.outer.lr <= 0:
            raise ValueError(f"plan: the outer lr is {self.outer.lr!r}; it must be a finite number > 0.")
        if not is_real(self.outer.momentum) or not 0 <= self.outer.momentum < 1:
            raise ValueError(f"plan: the outer momentum is {self.outer.momentum!r}; it must be >= 0 and < 1.")
        if self.period < 1 or len(self.rounds) != self.period:
            raise ValueError(f"plan: {len(self.rounds)} steps listed for a period of {self.period}.")
        if self.mode != Mode.STREAM and self.delay != 0:
            raise ValueError(f"plan: delay {self.delay} in mode {self.mode}, which applies within the step: use 0.")
        if self.mode == Mode.STREAM and not 1 <= self.delay <= self.period:
            raise ValueError(f"plan: delay {self.delay}; in mode stream it is at least 1 and at most {self.period}.")
        if any(not pieces for step in self.rounds for pieces in step):
            raise ValueError("plan: a round without units was found; leave it out.")
        starts: dict[Piece, list[int]] = {}
        for step, piece in self.pieces():
            if not 0 <= piece.unit < len(self.units) or not 0 <= piece.part < piece.parts:
                raise ValueError(f"plan: there is no {piece} in a model of {len(self.units)} units.")
            starts.setdefault(piece, []).append(step)
        found: dict[int, set[tuple[int, int]]] = {}
        for piece in starts:
            found.setdefault(piece.unit, set()).add((piece.part, piece.parts))
        for unit, (name, _) in enumerate(self.units):
            parts = found.get(unit, set())
            if not parts or parts != {(part, len(parts)) for part in range(len(parts))}:
                raise ValueError(f"plan: unit {name} is not synchronised whole in every period.")
        for piece, steps in starts.items():
            # From one start to the next, around the end of the period.
            gaps = [b - a for a, b in zip(steps, [*steps[1:], steps[0] + self.period], strict=True)]
            if min(gaps) < max(1, self.delay):
                raise ValueError(
                    f"plan: unit {self.units[piece.unit][0]} starts again {min(gaps)} steps after its last start, "
                    f"before that is applied (delay {self.delay})."
                )

    @property
    def codec(self) -> str:
        return self.averaging.codec

    @property
    def exchange(self) -> str:
        return self.averaging.exchange

    def pieces(self) -> Iterator[tuple[int, Piece]]:
        """Every piece with the step at which it starts, in the order of the plan."""
        for step, rounds in enumerate(self.rounds):
            for pieces in rounds:
                for piece in pieces:
                    yield step, piece

    @property
    def values_per_period(self) -> float:
        """Elements that one rank puts into rounds in a period; more than the model's where rounds fill bubbles."""
        return sum(self.units[piece.unit][1] / piece.parts for _, piece in self.pieces())

    def to_json(self) -> str:
        """Text for people and for `from_json`.

        The averaging's settings stand beside the plan's own, what is of single sites by their names. A round is a
        list of unit names; "name[2:5/16]" is parts 2 to 4.
        """
        names = [name for name, _ in self.units]
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        averaging = values.pop("averaging").to_fields()
        values |= {**(by_site.named(averaging, self.sites) if self.sites else averaging), "outer": asdict(self.outer)}
        values["units"] = [list(unit) for unit in self.units]
        values["rounds"] = [[_words(pieces, names) for pieces in step] for step in self.rounds]
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items() if key != "rounds"]
        steps = ",\n".join(f"  {json.dumps(step)}" for step in values["rounds"])
        return "{\n" + ",\n".join([f' "version": {VERSION}', *lines, f' "rounds": [\n{steps}\n ]']) + "\n}"

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Raises ValueError, in one line, for text that is no plan of this version or the one before."""

        def build(found: dict) -> "Plan":
            units = tuple((str(name), numel) for name, numel in found.pop("units"))
            places = {name: unit for unit, (name, _) in enumerate(units)}
            rounds = tuple(
                tuple(tuple(piece for word in words for piece in _pieces(word, places)) for words in step)
                for step in found.pop("rounds")
            )
            sites = found.pop("sites", [])
            if not isinstance(sites, list):
                raise ValueError(f"plan: sites are {sites!r}; they must be a list of names.")
            if sites:
                found = by_site.placed(found, sites)
            averaging, outer = Averaging.from_fields(found), Outer(**found.pop("outer"))
            return cls(sites=tuple(sites), units=units, rounds=rounds, averaging=averaging, outer=outer, **found)

        return parse("plan", text, VERSION, build, former=(_WITHOUT_NAMES,))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the plan."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def same_course(self, other: "Plan") -> bool:
        """Whether both run the same rounds in the same way, whatever their reasons."""
        return all(getattr(self, s.name) == getattr(other, s.name) for s in fields(self) if s.name != "reason")

    def for_members(self, members: Members) -> "Plan":
        """This plan, naming `members`. What it says of single sites goes by name, where it names any.

        Raises ValueError where it is for others, or not for so many.
        """
        others = {*self.sites} != {*members.names} if members.names else len(self.sites) != len(members)
        if self.sites and others:
            raise ValueError(
                f"plan: it is for the sites {', '.join(self.sites)}; here are {members}. Make one for these, or leave "
                "its sites out, to go by their order."
            )
        self.averaging.require_sites(len(members))
        names, averaging = members.names or self.sites, self.averaging
        if self.sites and self.sites != names:
            said = by_site.named(averaging.to_fields(), self.sites)
            averaging = Averaging.from_fields(by_site.placed(said, names))
        return replace(self, sites=names, generation=members.generation, averaging=averaging)

    def require_units(self, units: Sequence[tuple[str, int]]) -> None:
        """Raises ValueError where the plan is not for a model of these units (names and elements)."""
        if self.units == tuple(units):
            return
        here = dict(units)
        for name, numel in self.units:
            if here.get(name) != numel:
                found = f"has {here[name]} elements of it" if name in here else "has no such unit"
                raise ValueError(f"plan: it is for another model: unit {name} of {numel} elements; this one {found}.")
        missing = next((name for name in here if name not in dict(self.units)), None)
        if missing is not None:
            raise ValueError(f"plan: it is for another model: this one also has the unit {missing}.")
        raise ValueError("plan: it is for another model: the same units, in another order.")


def read_plan(path: str | os.PathLike) -> Plan:
    """The plan in a file. Raises ValueError, in one line that names the file, for anything else."""
    return read("plan", path, Plan.from_json)


def _words(pieces: Round, names: Sequence[str]) -> list[str]:
    """The pieces of a round as text, neighbouring parts of a unit in one word."""
    stretches: list[tuple[Piece, int]] = []  # first piece, past-the-last part
    for piece in pieces:
        if stretches:
            first, stop = stretches[-1]
            if (first.unit, first.parts, stop) == (piece.unit, piece.parts, piece.part):
                stretches[-1] = (first, stop + 1)
                continue
        stretches.append((piece, piece.part + 1))
    return [
        names[first.unit] if first.parts == 1 else f"{names[first.unit]}[{first.part}:{stop}/{first.parts}]"
        for first, stop in stretches
    ]


def _pieces(word: str, places: dict[str, int]) -> list[Piece]:
    """What `_words` wrote, as pieces."""
    if not isinstance(word, str):
        raise ValueError(f"plan: a round names units; {word!r} was found.")
    if word in places:
        return [Piece(places[word])]
    match = re.fullmatch(r"(.*)\[(\d{1,9}):(\d{1,9})/(\d{1,9})\]", word)
    if match is None or match[1] not in places:
        raise ValueError(f"plan: there is no unit {word!r} in it.")
    first, stop, parts = int(match[2]), int(match[3]), int(match[4])
    if not 0 <= first < stop <= parts:
        raise ValueError(f"plan: {word!r} is no stretch of a unit: parts run from 0 to {parts}.")
    if parts > 1_000_000:
        raise ValueError(f"plan: {word!r} cuts a unit into more parts than make sense.")
    return [Piece(places[match[1]], part, parts) for part in range(first, stop)]
