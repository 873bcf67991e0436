# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The "geo_accel" block: what may be set, read from a mapping, a JSON or YAML file, or a DeepSpeed JSON.

"auto" is the default everywhere and means: measure, then choose. Nothing here imports torch.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

from geo_accel.config_file import BLOCK, find_block, read_file
from geo_accel.config_parts import OUTER_ALLOWED, OVERLAP_ALLOWED, OuterConfig, read_outer, read_overlap
from geo_accel.config_rules import (
    AUTO,
    ConfigError,
    Rule,
    choice,
    file,
    nearest,
    plain,
    real,
    refusal,
    shown,
    sizes,
    switch,
    whole,
    word,
)
from geo_accel.version import __version__

DENSE_CODECS = ("fp32", "bf16", "int8", "int4", "int2")
"""Codecs that send every value."""
SPARSE_CODECS = ("topk", "randk")
"""Codecs that send `compression.ratio` of the values."""
CODECS = (*DENSE_CODECS, *SPARSE_CODECS)
SPARSE_CHUNK = 4096
"""A sparse codec keeps equally many of every so many values, a whole number that all sites agree on."""

ENVIRONMENT = ("GEO_ACCEL_SITE", "GEO_ACCEL_TRACE", "GEO_ACCEL_LAB")
"""The environment variables that geo_accel reads; any other GEO_ACCEL_* is refused as a misspelling."""

_PER_SITE = ("link.interface", "sync.plan")
"""Settings that may differ between sites, left out of `fingerprint` and `differences`."""


def _unknown(prefix: str, name: object, siblings: Iterable[str]) -> str:
    """The line for a key that does not exist, with the nearest name beside it or, if clearly nearer, elsewhere."""
    siblings = tuple(siblings)
    near, likeness = nearest(name, siblings)
    everywhere = {key.rpartition(".")[2]: key for key in (setting.key for setting in settings())}
    far, far_likeness = nearest(name, everywhere)
    elsewhere = far_likeness == 1 or (likeness < 0.6 and far_likeness > likeness + 0.1)
    best = everywhere[far] if elsewhere else prefix + near
    return f"{prefix}{plain(name)}: unknown key; the nearest is {best}; allowed here: {', '.join(siblings)}"


def _setting(default: Any, rule: Rule, help: str) -> Any:
    return field(default=default, metadata={"help": help, "rule": rule})


def _section(kind: type, help: str) -> Any:
    return field(default_factory=kind, metadata={"help": help})


@dataclass(kw_only=True, slots=True)
class SyncConfig:
    """When each layer is synchronised between sites."""

    mode: str = _setting(
        "stream",
        choice("stream", "backward", "blocking"),
        help='"stream" hides each transfer behind whole steps, "backward" behind the backward pass (DreamDDP);'
        ' "blocking" waits for it (plain local SGD)',
    )
    period: int | str = _setting(
        AUTO, whole(at_least=1), help="every layer is synchronised at least once in this many optimizer steps"
    )
    schedule: str = _setting(
        AUTO,
        choice(AUTO, "full", "equal", "dreamddp", "stream", "manual"),
        help='which layers go in which step of a period: "full" all in the last step, "equal" equal numbers of layers,'
        ' "dreamddp" what hides best behind backward, "stream" equal bytes, "manual" as sync.plan says',
    )
    plan: str = _setting(
        AUTO,
        file("a plan's file, as geo-accel plan --output writes it"),
        help='the plan of schedule "manual", with its mode, period, delay and codec; rank 0 reads it for all',
    )
    optimizer_in_backward: bool = _setting(
        False,
        switch(auto=False),
        help="update each layer inside backward and average it after its update (DreamDDP as published), not before;"
        ' mode "backward" only, without clipping',
    )
    exchange: str = _setting(
        AUTO,
        choice(AUTO, "direct", "hub", "two-shot"),
        help='how payloads cross: "direct" from everyone to everyone, through one site as "hub", or "two-shot",'
        " averaging by shares, for dense codecs",
    )
    delay: int | str = _setting(
        AUTO,
        whole(at_least=1),
        help="optimizer steps from the start of a transfer to its application, at most the period; stream mode only",
    )
    outer: OuterConfig | str = _setting(
        AUTO,
        Rule(allowed=OUTER_ALLOWED, read=partial(read_outer, unknown=_unknown)),
        help="the outer optimizer, applied to the averaged progress of all sites",
    )


@dataclass(kw_only=True, slots=True)
class CompressionConfig:
    """How far what crosses the WAN is compressed."""

    codec: str = _setting(
        AUTO,
        choice(AUTO, *CODECS),
        help="the number format that crosses the WAN",
    )
    ratio: float | str = _setting(
        AUTO, real(above=0, at_most=1), help="share of the values that a sparse codec sends; dense codecs ignore it"
    )
    residual: str = _setting(
        AUTO,
        choice(AUTO, "weights", "buffer", "none"),
        help='where what was not sent waits: in the site\'s "weights", in a "buffer", or nowhere: "none" loses it, for'
        " comparisons",
    )
    overlap_weighting: bool | dict[str, float] | str = _setting(
        AUTO,
        Rule(allowed=OVERLAP_ALLOWED, read=partial(read_overlap, unknown=_unknown)),
        help="weigh values by how many sites sent them: true makes it the mean over those that did; threshold and gain"
        " are those of OPWA (arXiv:2408.14736); dense codecs ignore it",
    )
    coefficients: str = _setting(
        "equal",
        choice("equal", "data", "blend"),
        help='what each site counts in the average: all alike, by its number of processes ("data"), or half of that'
        ' and half by how much it sends ("blend", BCRS)',
    )


@dataclass(kw_only=True, slots=True)
class LinkConfig:
    """The network between the sites."""

    interface: str = _setting(
        AUTO, word("a network interface's name"), help="the interface that faces the other sites; may differ per site"
    )
    bandwidth_mbps: float | str = _setting(
        AUTO, real(above=0), help="bandwidth to plan with, in megabits (10^6 bits) per second; measured if auto"
    )
    latency_ms: float | str = _setting(
        AUTO, real(at_least=0), help="one-way latency to plan with, in milliseconds; measured if auto"
    )


@dataclass(kw_only=True, slots=True)
class ResilienceConfig:
    """What happens when a site is late, leaves or joins, and what may cross an unprotected network."""

    elastic: bool = _setting(False, switch(auto=False), help="sites may leave and join; not in this version")
    round_timeout_s: float | str = _setting(
        AUTO, real(above=0), help="seconds that a round may take before the run stops and names the late site"
    )
    allow_public_plaintext: bool = _setting(
        False, switch(auto=False), help="allow unencrypted traffic over a public address"
    )


@dataclass(kw_only=True, slots=True)
class GeoConfig:
    """The whole block. Built by hand it is not checked until `load_config` reads it, which integrations always do."""

    sites: list[int] | str = _setting(
        AUTO,
        sizes("a list of whole numbers >= 1, the processes of each site, such as [4, 4]"),
        help="which processes form a site: by machine if auto, or the number of processes of each site in rank order;"
        " GEO_ACCEL_SITE=name per process overrides it",
    )
    sync: SyncConfig = _section(SyncConfig, help="when each layer is synchronised between sites")
    compression: CompressionConfig = _section(CompressionConfig, help="how far transfers are compressed")
    link: LinkConfig = _section(LinkConfig, help="the network between the sites")
    resilience: ResilienceConfig = _section(ResilienceConfig, help="failures, deadlines and protection")

    def to_dict(self) -> dict[str, Any]:
        """The block as plain JSON values; `load_config` reads it back to an equal config."""
        return _as_dict(self)

    def fingerprint(self) -> str:
        """A SHA-256 in hex that all sites must share; `link.interface` and `sync.plan` may differ and are left out.

        Take it of a config from `load_config`, which stores equal settings equally (100 and 100.0 are one bandwidth).
        """
        flat = {key: value for key, value in _flat(self.to_dict()).items() if key not in _PER_SITE}
        return hashlib.sha256(json.dumps(flat, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(kw_only=True, slots=True, frozen=True)
class Setting:
    """One setting as documentation and the command line show it."""

    key: str
    """Dotted, such as "sync.period"."""
    default: Any
    allowed: str
    """The allowed values, in words."""
    help: str


def settings() -> Iterator[Setting]:
    """Every setting of the block, in order."""
    for prefix, spec in _walk(GeoConfig):
        yield Setting(
            key=prefix + spec.name,
            default=spec.default,
            allowed=spec.metadata["rule"].allowed,
            help=spec.metadata["help"],
        )


def load_config(source: "GeoConfig | Mapping | str | os.PathLike | None" = None) -> GeoConfig:
    """A checked config of its own from whatever the user gave.

    `source` is None (all auto), a GeoConfig, a mapping, or the path of a JSON or YAML file. A mapping or file is the
    block itself, or has it under a top-level "geo_accel" key; other top-level keys are then DeepSpeed's.

    Raises ConfigError, a ValueError with one line per problem, for anything that is not right, GEO_ACCEL_* variables
    that are not known included. Warns (UserWarning) once for each setting that is ignored.
    """
    problems = _unknown_variables()
    ignored: list[str] = []
    label = ""
    config = GeoConfig()
    try:
        if isinstance(source, GeoConfig):
            block: object = source.to_dict()
        elif source is None:
            block = {}
        elif isinstance(source, Mapping):
            block = source
        elif isinstance(source, str | os.PathLike):
            block = read_file(source)
            label = f"{os.fspath(source)}: "
        else:
            raise ConfigError([f"config: got {shown(source)}; allowed: a GeoConfig, a mapping, or a file's path"])
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    found: list[str] = []
    if isinstance(block, Mapping) and not isinstance(source, GeoConfig):
        block = find_block(block, found, ignored)
    config = _read_section(GeoConfig, block, "", found)
    _check_together(config, found)
    problems += [label + problem for problem in found]
    if problems:
        raise ConfigError(problems)
    for line in (*ignored, *_ignored(config)):
        warnings.warn(label + line, UserWarning, stacklevel=2)
    return config


def differences(a: Mapping, b: Mapping) -> list[str]:
    """One line for each setting in which two `to_dict()`s differ, dotted key and both values; empty if none does.

    Settings that may differ per site are left out, as in `GeoConfig.fingerprint`.
    """
    left, right = _flat(a), _flat(b)
    missing = object()
    lines = []
    for key in dict.fromkeys((*left, *right)):
        one, other = left.get(key, missing), right.get(key, missing)
        if key not in _PER_SITE and (one != other or isinstance(one, bool) != isinstance(other, bool)):
            texts = ["not set" if value is missing else json.dumps(value) for value in (one, other)]
            lines.append(f"{key}: {texts[0]} against {texts[1]}")
    return lines


def _read_section(kind: type, given: object, prefix: str, problems: list[str]) -> Any:
    """A `kind` filled from a mapping; what is wrong goes to `problems` and keeps its default."""
    section = kind()
    if isinstance(given, kind):
        given = _as_dict(given)
    if not isinstance(given, Mapping):
        name = prefix.removesuffix(".") or BLOCK
        problems.append(refusal(name, given, "a mapping with " + ", ".join(spec.name for spec in fields(kind))))
        return section
    specs = {spec.name: spec for spec in fields(kind)}
    for name, value in given.items():
        spec = specs.get(name) if isinstance(name, str) else None
        if spec is None:
            problems.append(_unknown(prefix, name, specs))
        elif is_dataclass(spec.default_factory):
            setattr(section, name, _read_section(spec.default_factory, value, f"{prefix}{name}.", problems))
        else:
            setattr(section, name, spec.metadata["rule"].read(prefix + name, value, problems))
    return section


def _unknown_variables() -> list[str]:
    return [
        f"{plain(name)}: unknown environment variable; the nearest is {nearest(name, ENVIRONMENT)[0]}; "
        f"allowed: {', '.join(ENVIRONMENT)}"
        for name in sorted(os.environ)
        if name.startswith("GEO_ACCEL_") and name not in ENVIRONMENT
    ]


def _check_together(config: GeoConfig, problems: list[str]) -> None:
    """Contradictions between settings that are each allowed."""
    sync = config.sync
    if sync.mode == "stream" and AUTO not in (sync.delay, sync.period) and sync.delay > sync.period:
        problems.append(
            f"sync.delay: got {sync.delay} with sync.period {sync.period}; allowed: at most the period, as a layer "
            "may have only one transfer on its way"
        )
    if sync.schedule == "manual" and sync.plan == AUTO:
        problems.append('sync.plan: missing; allowed with sync.schedule "manual": a plan\'s file')
    if sync.exchange == "two-shot" and config.compression.codec in SPARSE_CODECS:
        problems.append(
            f'sync.exchange: got "two-shot" with compression.codec "{config.compression.codec}"; allowed with it: '
            '"auto", "direct", "hub"'
        )
    if config.resilience.elastic is True:
        problems.append(f"resilience.elastic: got true; allowed: false (not available in this version, {__version__})")


def _ignored(config: GeoConfig) -> Iterator[str]:
    """One line for each setting that has no effect together with the others."""
    sync = config.sync
    if sync.mode != "stream" and sync.delay != AUTO:
        yield f'sync.delay is ignored: in mode "{sync.mode}" each result is applied within its step'
    if sync.schedule == "manual":
        manual = {
            "sync.period": sync.period,
            "sync.delay": sync.delay,
            "sync.exchange": sync.exchange,
            "sync.outer": sync.outer,
            "compression.codec": config.compression.codec,
            "compression.ratio": config.compression.ratio,
        }
        for key, value in manual.items():
            if value != AUTO:
                yield f'{key} is ignored: with schedule "manual" the plan in sync.plan says it'
    elif sync.plan != AUTO:
        yield f'sync.plan is ignored: the schedule is "{sync.schedule}", not "manual"'
    if sync.optimizer_in_backward is True and sync.mode != "backward":
        yield f'sync.optimizer_in_backward is ignored: the mode is "{sync.mode}"'
    if config.compression.codec in DENSE_CODECS:
        for name in ("ratio", "residual", "overlap_weighting"):
            if getattr(config.compression, name) != AUTO:
                yield f'compression.{name} is ignored: codec "{config.compression.codec}" sends all values'


def _walk(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for spec in fields(kind):
        if is_dataclass(spec.default_factory):
            yield from _walk(spec.default_factory, f"{prefix}{spec.name}.")
        else:
            yield prefix, spec


def _as_dict(value: object) -> Any:
    if isinstance(value, OuterConfig):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {spec.name: _as_dict(getattr(value, spec.name)) for spec in fields(value)}
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _flat(block: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in block.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
