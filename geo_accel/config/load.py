# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Reading the "geo_accel" block: from whatever the user gave to a checked config."""

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from geo_accel.config.file import BLOCK, find_block, read_file
from geo_accel.config.names import AUTO, DENSE_CODECS, SPARSE_CODECS, Exchange, Mode, Schedule
from geo_accel.config.rules import ConfigError, nearest, plain, refusal, shown
from geo_accel.config.schema import GeoConfig, as_dict, unknown_key

ENVIRONMENT = {
    "GEO_ACCEL_SITE": "the name of the site that this process belongs to, whatever `sites` says",
    "GEO_ACCEL_MEET": "where sites that are jobs of their own meet, whatever `meet.at` says",
    "GEO_ACCEL_KEYS": "the site's key file, whatever `meet.keys` says",
    "GEO_ACCEL_EXPECT": "how many sites the run has, whatever `meet.expect` says",
    "GEO_ACCEL_TRACE": "a folder to write one Perfetto trace per process into",
    "GEO_ACCEL_LAB": "set by `geo-accel lab`, so that a script can tell that it runs there",
}
"""The environment variables that may be set, and what for; any other GEO_ACCEL_* is refused as a misspelling."""


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


def _read_section(kind: type, given: object, prefix: str, problems: list[str]) -> Any:
    """A `kind` filled from a mapping; what is wrong goes to `problems` and keeps its default."""
    section = kind()
    if isinstance(given, kind):
        given = as_dict(given)
    if not isinstance(given, Mapping):
        name = prefix.removesuffix(".") or BLOCK
        problems.append(refusal(name, given, "a mapping with " + ", ".join(spec.name for spec in fields(kind))))
        return section
    specs = {spec.name: spec for spec in fields(kind)}
    for name, value in given.items():
        spec = specs.get(name) if isinstance(name, str) else None
        if spec is None:
            problems.append(unknown_key(prefix, name, specs))
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
    if sync.mode == Mode.STREAM and sync.delay != AUTO and sync.period != AUTO and sync.delay > sync.period:
        problems.append(
            f"sync.delay: got {sync.delay} with sync.period {sync.period}; allowed: at most the period, as a layer "
            "may have only one transfer on its way"
        )
    if sync.schedule == Schedule.MANUAL and sync.plan == AUTO:
        problems.append('sync.plan: missing; allowed with sync.schedule "manual": a plan\'s file')
    if sync.exchange == Exchange.TWO_SHOT and config.compression.codec in SPARSE_CODECS:
        problems.append(
            f'sync.exchange: got "two-shot" with compression.codec "{config.compression.codec}"; allowed with it: '
            '"auto", "direct", "hub"'
        )


def _ignored(config: GeoConfig) -> Iterator[str]:
    """One line for each setting that has no effect together with the others."""
    sync = config.sync
    if sync.mode != Mode.STREAM and sync.delay != AUTO:
        yield f'sync.delay is ignored: in mode "{sync.mode}" each result is applied within its step'
    if sync.schedule == Schedule.MANUAL:
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
    if sync.optimizer_in_backward is True and sync.mode != Mode.BACKWARD:
        yield f'sync.optimizer_in_backward is ignored: the mode is "{sync.mode}"'
    if config.compression.codec in DENSE_CODECS:
        for name in ("ratio", "residual", "overlap_weighting"):
            if getattr(config.compression, name) != AUTO:
                yield f'compression.{name} is ignored: codec "{config.compression.codec}" sends all values'
