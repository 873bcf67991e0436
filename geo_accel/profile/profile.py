# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A profile: what computing and the links take, measured. The planner's only input; no torch here."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from geo_accel.profile.document import parse, read
from geo_accel.profile.link import Link

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitProfile:
    """One unit of the model."""

    name: str
    numel: int
    """Elements of it that one rank carries across the WAN: all, where a site has one rank."""
    forward_s: float = 0.0
    """Seconds of one micro-batch."""
    backward_s: float = 0.0
    """Seconds from the previous unit's last gradient to this one's, in one micro-batch."""
    update_s: float = 0.0
    """Its share of the optimizer's seconds."""
    transfer_s: float | None = None
    """Seconds of one exchange in fp32 where that was measured by itself; else the link's model says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """What synchronising one value costs beside its transfer, in seconds."""

    training_s: float = 0.0
    """By which it makes training longer: what the training thread does (a snapshot and its application, or on a CPU
    encoding and averaging), and what the background takes from its cores."""
    background_s: float = 0.0
    """On the background thread, between the transfers: encoding and averaging where there is a snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Units in the order in which their last gradients become ready, and the links of the sites."""

    units: tuple[UnitProfile, ...]
    step_s: float | None = None
    """Seconds of a whole step without WAN; None where only the units are known, whose sum it is then."""
    after_s: float | None = None
    """Seconds from the last gradient to the end of the step (clipping, update); None: the units' updates."""
    links: tuple[tuple[str, Link], ...] = ()
    """By site: an exchange of that site with all others at once."""
    pairs: tuple[tuple[str, str, Link], ...] = ()
    """By pair of sites, where that was measured."""
    handling: Mapping[str, Handling] = field(default_factory=dict)
    """By codec."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where it was measured: device, versions, date, batch shape."""

    def __post_init__(self) -> None:
        if not self.units:
            raise ValueError("profile: it has no units.")
        names = [unit.name for unit in self.units]
        odd = next((name for name in names if not isinstance(name, str)), None)
        if odd is not None:
            raise ValueError(f"profile: a unit is named {odd!r}; a name is text.")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"profile: unit {twice} is listed twice.")
        for unit in self.units:
            if not isinstance(unit.numel, int):
                raise ValueError(f"profile: numel of unit {unit.name} is {unit.numel!r}; it must be a whole number.")
            for key in ("numel", "forward_s", "backward_s", "update_s", "transfer_s"):
                _check(f"{key} of unit {unit.name}", getattr(unit, key))
        _check("step_s", self.step_s)
        _check("after_s", self.after_s)
        for site, *_, link in (*self.links, *self.pairs):
            _check(f"latency_s of {site}", link.latency_s)
            _check(f"seconds_per_byte of {site}", link.seconds_per_byte)
            _check(f"down_seconds_per_byte of {site}", link.down_seconds_per_byte)
            if min(link.seconds_per_byte, link.down) <= 0:
                raise ValueError(f"profile: seconds_per_byte of {site} is 0; no link is that fast.")
        for codec, cost in self.handling.items():
            _check(f"handling.{codec}.training_s", cost.training_s)
            _check(f"handling.{codec}.background_s", cost.background_s)
        if sum(unit.forward_s + unit.backward_s for unit in self.units) <= 0 and not self.step_s:
            raise ValueError("profile: all of its times are 0; was anything measured?")

    @property
    def numel(self) -> int:
        """Elements that one rank carries of all units."""
        return sum(unit.numel for unit in self.units)

    @property
    def backward_s(self) -> float:
        """Backward seconds of one micro-batch, all units."""
        return sum(unit.backward_s for unit in self.units)

    @property
    def ending_s(self) -> float:
        """Seconds from the last gradient to the end of the step."""
        return sum(unit.update_s for unit in self.units) if self.after_s is None else self.after_s

    @property
    def compute_s(self) -> float:
        """Seconds of a step without WAN."""
        parts = sum(unit.forward_s for unit in self.units) + self.backward_s + self.ending_s
        return parts if self.step_s is None else max(self.step_s, self.backward_s + self.ending_s)

    @property
    def link(self) -> Link | None:
        """The slowest of all sites, which every round waits for; None where links are not known."""
        return Link.slowest([link for _, link in self.links]) if self.links else None

    def with_link(self, link: Link) -> "Profile":
        """This profile over another link, the same for all sites; measured transfers of units are dropped."""
        units = tuple(replace(unit, transfer_s=None) for unit in self.units)
        sites = [site for site, _ in self.links] or ["all"]
        return replace(self, units=units, links=tuple((site, link) for site in sites), pairs=())

    def with_slower_links(self, factor: float) -> "Profile":
        """This profile where every link takes `factor` times as long per byte; measured transfers are dropped."""
        units = tuple(replace(unit, transfer_s=None) for unit in self.units)
        links = tuple((site, link.slower(factor)) for site, link in self.links)
        return replace(self, units=units, links=links, pairs=())

    def with_step(self, step_s: float) -> "Profile":
        """This profile for steps that take `step_s` seconds, every part of them longer or shorter alike."""
        scale = step_s / self.compute_s
        units = tuple(
            replace(u, forward_s=u.forward_s * scale, backward_s=u.backward_s * scale, update_s=u.update_s * scale)
            for u in self.units
        )
        return replace(self, units=units, step_s=step_s, after_s=self.ending_s * scale)

    def tied(self, one: str, other: str) -> "Profile":
        """This profile where units `one` and `other` share their weight: it is sent once, when both are ready.

        Raises ValueError for a unit that is not there.
        """
        names = [unit.name for unit in self.units]
        for name in (one, other):
            if name not in names:
                raise ValueError(f"tied: the profile has no unit {name!r}; it has {', '.join(names[:6])} ...")
        if one == other:
            raise ValueError(f"tied: {one}={other} ties a unit to itself.")
        earlier = min(one, other, key=names.index)
        silent = {"numel": 0, "transfer_s": 0.0}
        return replace(self, units=tuple(replace(u, **silent) if u.name == earlier else u for u in self.units))

    def to_json(self) -> str:
        """The profile as text that `from_json` reads."""
        fields = asdict(self)
        fields["links"] = [{"site": site, **asdict(link)} for site, link in self.links]
        fields["pairs"] = [{"sites": [one, other], **asdict(link)} for one, other, link in self.pairs]
        return json.dumps({"version": VERSION, **fields}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """Raises ValueError, in one line, for text that is no profile of this version."""

        def build(fields: dict) -> "Profile":
            fields["units"] = tuple(UnitProfile(**unit) for unit in fields["units"])
            fields["links"] = tuple((link.pop("site"), Link(**link)) for link in fields["links"])
            fields["pairs"] = tuple((*pair.pop("sites"), Link(**pair)) for pair in fields["pairs"])
            fields["handling"] = {codec: Handling(**cost) for codec, cost in fields["handling"].items()}
            return cls(**fields)

        return parse("profile", text, VERSION, build)


def read_profile(path: str | os.PathLike) -> Profile:
    """The profile in a file, or in a folder of the published format (`bp.json` and `comm.json`).

    Raises ValueError, in one line that names the file, for anything that is not a profile.
    """
    path = Path(path)
    return _read_published(path) if path.is_dir() else read("profile", path, Profile.from_json)


def _read_published(folder: Path) -> Profile:
    """DreamDDP's published profiles: seconds of backward and of one all-reduce by leaf module, in forward order.

    A NaN there is a module without parameters, and counts as 0. Elements are not known, nor are forward times. What is
    only in bp.json is frozen, as most of a LoRA run is: never sent, so no unit, and what it computes delays the next
    unit's gradient.
    """
    tables = {name: read("profile", folder / name, _seconds_by_module) for name in ("bp.json", "comm.json")}
    backward, transfers = tables["bp.json"], tables["comm.json"]
    odd = next((name for name in transfers if name not in backward), None)
    if odd is not None:
        raise ValueError(
            f"{folder}: profile: module {odd} is in comm.json but not in bp.json: nothing says when its gradient is "
            "ready. Add its seconds of backward."
        )

    def seconds(name: str, value: object) -> float:
        if not isinstance(value, int | float):
            raise ValueError(f"{folder}: profile: the time of module {name} is {value!r}, not a number.")
        return 0.0 if math.isnan(value) else float(value)

    units, frozen_s = [], 0.0
    try:
        for name in reversed(backward):
            backward_s = seconds(name, backward[name])
            if name not in transfers:
                _check(f"backward_s of frozen module {name}", backward_s)
                frozen_s += backward_s
                continue
            transfer_s = seconds(name, transfers[name])
            units.append(UnitProfile(name=name, numel=0, backward_s=frozen_s + backward_s, transfer_s=transfer_s))
            frozen_s = 0.0
        if units:  # what comes after the last unit: backward stays as long as it is
            units[-1] = replace(units[-1], backward_s=units[-1].backward_s + frozen_s)
        return Profile(
            units=tuple(units), provenance={"format": "DreamDDP, bp.json and comm.json", "folder": folder.name}
        )
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None


def _seconds_by_module(text: str) -> dict:
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"profile: not JSON, or cut off ({error}).") from None
    if not isinstance(table, dict):
        raise ValueError("profile: expected seconds by module, found a list or a number.")
    return table


def _check(what: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"profile: {what} is {value!r}; it must be a finite number >= 0.")
