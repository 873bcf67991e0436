# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What may be set in the "geo_accel" block: every setting with its default, its rule and its help."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

from geo_accel.config.names import (
    AUTO,
    CODECS,
    COEFFICIENTS,
    EXCHANGES,
    MODES,
    RESIDUALS,
    SCHEDULES,
    Auto,
    Coefficients,
    Mode,
    Schedule,
)
from geo_accel.config.parts import OUTER_ALLOWED, OVERLAP_ALLOWED, Outer, Overlap, read_outer, read_overlap
from geo_accel.config.rules import Rule, choice, file, nearest, plain, real, sizes, switch, whole, word

PER_SITE = ("link.interface", "sync.plan", "meet.at", "meet.listen", "meet.keys", "meet.expect")
"""Settings that may differ between sites, left out of `fingerprint` and `differences`."""


def unknown_key(prefix: str, name: object, siblings: Iterable[str]) -> str:
    """The line for a key that does not exist, with the nearest name beside it or, if clearly nearer, elsewhere."""
    siblings = tuple(siblings)
    near, likeness = nearest(name, siblings)
    everywhere = {key.rpartition(".")[2]: key for key in (setting.key for setting in settings())}
    far, far_likeness = nearest(name, everywhere)
    elsewhere = far_likeness == 1 or (likeness < 0.6 and far_likeness > likeness + 0.1)
    best = everywhere[far] if elsewhere else prefix + near
    return f"{prefix}{plain(name)}: unknown key; the nearest is {best}; allowed here: {', '.join(siblings)}"


def _setting(default: Any, rule: Rule, help: str, when: str) -> Any:
    return field(default=default, metadata={"help": help, "when": when, "rule": rule})


def _section(kind: type, help: str) -> Any:
    return field(default_factory=kind, metadata={"help": help})


@dataclass(kw_only=True, slots=True)
class SyncConfig:
    """When each layer is synchronised between sites."""

    mode: str = _setting(
        Mode.STREAM,
        choice(*MODES),
        help='"stream" hides each transfer behind whole steps, "backward" behind the backward pass (DreamDDP);'
        ' "blocking" waits for it (plain local SGD)',
        when="to compare with DreamDDP or local SGD",
    )
    period: int | Auto = _setting(
        AUTO,
        whole(at_least=1),
        help="every layer is synchronised at least once in this many optimizer steps",
        when="to compare runs at one period, or to say how far sites may drift apart whatever it costs",
    )
    schedule: str = _setting(
        AUTO,
        choice(AUTO, *SCHEDULES, Schedule.MANUAL),
        help='which layers go in which step of a period: "full" all in the last step, "equal" equal numbers of layers,'
        ' "dreamddp" what hides best behind backward, "stream" equal bytes, "manual" as sync.plan says',
        when='to compare schedules, or "manual" to run a plan of your own',
    )
    plan: str = _setting(
        AUTO,
        file("a plan's file, as geo-accel plan --output writes it"),
        help='the plan of schedule "manual", with its mode, period, delay and codec; rank 0 reads it for all',
        when='with schedule "manual", where it must be given; may differ per site',
    )
    optimizer_in_backward: bool = _setting(
        False,
        switch(),
        help="update each layer inside backward and average it after its update (DreamDDP as published), not before;"
        ' mode "backward" only, without clipping',
        when="to repeat what DreamDDP published; sites must be one process each",
    )
    exchange: str = _setting(
        AUTO,
        choice(AUTO, *EXCHANGES),
        help='how payloads cross: "direct" from everyone to everyone, through one site as "hub", or "two-shot",'
        " averaging by shares, for dense codecs",
        when='to compare exchanges; "auto" takes "hub" where one site has a far better link',
    )
    delay: int | Auto = _setting(
        AUTO,
        whole(at_least=1),
        help="optimizer steps from the start of a transfer to its application, at most the period; stream mode only",
        when="to fix it together with the period; less is fresher, more hides longer transfers",
    )
    outer: Outer | Auto = _setting(
        AUTO,
        Rule(kind="name or mapping", allowed=OUTER_ALLOWED, read=partial(read_outer, unknown=unknown_key)),
        help="the outer optimizer, applied to the averaged progress of all sites",
        when='"mean" for the plain average, or a step that you have tuned; "auto" damps its own where the loss rises',
    )


@dataclass(kw_only=True, slots=True)
class CompressionConfig:
    """How far what crosses the WAN is compressed."""

    codec: str = _setting(
        AUTO,
        choice(AUTO, *CODECS),
        help="the number format that crosses the WAN",
        when='"fp32" to lose nothing; else to compare codecs or to hold runs comparable',
    )
    ratio: float | Auto = _setting(
        AUTO,
        real(above=0, at_most=1),
        help="share of the values that a sparse codec sends; dense codecs ignore it",
        when='with codec "topk" or "randk", to fix it; "auto" sends what the link has room for',
    )
    residual: str = _setting(
        AUTO,
        choice(AUTO, *RESIDUALS),
        help='where what was not sent waits: in the site\'s "weights", in a "buffer", or nowhere: "none" loses it, for'
        " comparisons",
        when="to compare; needs a sparse codec",
    )
    overlap_weighting: bool | Overlap | Auto = _setting(
        AUTO,
        Rule(kind="switch or mapping", allowed=OVERLAP_ALLOWED, read=partial(read_overlap, unknown=unknown_key)),
        help="weigh values by how many sites sent them: true makes it the mean over those that did; threshold and gain"
        " are those of OPWA (arXiv:2408.14736); dense codecs ignore it",
        when="to repeat what OPWA published; needs a sparse codec",
    )
    coefficients: str = _setting(
        Coefficients.EQUAL,
        choice(*COEFFICIENTS),
        help='what each site counts in the average: all alike, by its number of processes ("data"), or half of that'
        ' and half by how much it sends ("blend", BCRS)',
        when='"data" where sites have unlike numbers of processes and every example is to count alike',
    )


@dataclass(kw_only=True, slots=True)
class LinkConfig:
    """The network between the sites."""

    interface: str = _setting(
        AUTO,
        word("a network interface's name"),
        help="the interface that faces the other sites; may differ per site",
        when="where gloo takes an interface that the other sites do not reach: a tunnel's, say",
    )
    bandwidth_mbps: float | Auto = _setting(
        AUTO,
        real(above=0),
        help="bandwidth to plan with, in megabits (10^6 bits) per second; measured if auto",
        when="where less may be used than there is, or to plan without measuring; then it is not followed",
    )
    latency_ms: float | Auto = _setting(
        AUTO,
        real(at_least=0),
        help="one-way latency to plan with, in milliseconds; measured if auto",
        when="together with the bandwidth, to plan without measuring",
    )


@dataclass(kw_only=True, slots=True)
class MeetConfig:
    """Where sites meet that are jobs of their own."""

    at: str | Auto = _setting(
        AUTO,
        word("host:port, or listen:port at the site that the others come to"),
        help="where the sites meet: each starts a job of its own then; GEO_ACCEL_MEET overrides it; if auto, one job"
        " spans all sites",
        when="for a job per site; differs per site",
    )
    listen: str | Auto = _setting(
        AUTO,
        word("host:port or :port, where others can dial this site"),
        help="where this site listens besides; sites that nobody can dial dial out themselves",
        when="where two sites can reach each other directly, and not only the meeting point",
    )
    keys: str | Auto = _setting(
        AUTO,
        file("a key file, as geo-accel keys add writes it"),
        help="what proves who this site is; GEO_ACCEL_KEYS overrides it",
        when="with meet.at, where it must be given; differs per site",
    )
    expect: int | Auto = _setting(
        AUTO,
        whole(at_least=2),
        help="how many sites to wait for before the first step; GEO_ACCEL_EXPECT overrides it; 2 if auto everywhere",
        when="with more than two sites, at one of them at least",
    )


@dataclass(kw_only=True, slots=True)
class ResilienceConfig:
    """What happens when a site is late, and what may cross an unprotected network."""

    patience_s: float | Auto = _setting(
        AUTO,
        real(above=0),
        help="seconds without any progress after which a site counts as lost, is named, and the run stops; if auto,"
        " from what waits took so far, at least 10 and at most 30 minutes",
        when="where one site may be busy for longer than that, or a lost one is to be noticed sooner",
    )
    allow_public_plaintext: bool = _setting(
        False,
        switch(),
        help="allow unencrypted traffic over a public address",
        when="only where something else protects what passes there",
    )


@dataclass(kw_only=True, slots=True)
class GeoConfig:
    """The whole block. Built by hand it is not checked until `load_config` reads it, which integrations always do."""

    sites: list[int] | Auto = _setting(
        AUTO,
        sizes("a list of whole numbers >= 1, the processes of each site, such as [4, 4]"),
        help="which processes form a site: by machine if auto, or the number of processes of each site in rank order;"
        " GEO_ACCEL_SITE=name per process overrides it",
        when="where several sites share a machine, or a site is several machines",
    )
    sync: SyncConfig = _section(SyncConfig, help="when each layer is synchronised between sites")
    compression: CompressionConfig = _section(CompressionConfig, help="how far transfers are compressed")
    link: LinkConfig = _section(LinkConfig, help="the network between the sites")
    meet: MeetConfig = _section(MeetConfig, help="where sites meet that are jobs of their own")
    resilience: ResilienceConfig = _section(ResilienceConfig, help="failures, deadlines and protection")

    def to_dict(self) -> dict[str, Any]:
        """The block as plain JSON values; `load_config` reads it back to an equal config."""
        return as_dict(self)

    def fingerprint(self) -> str:
        """A SHA-256 in hex that all sites must share; what is in `PER_SITE` may differ and is left out.

        Take it of a config from `load_config`, which stores equal settings equally (100 and 100.0 are one bandwidth).
        """
        flat = {key: value for key, value in _flat(self.to_dict()).items() if key not in PER_SITE}
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
    """What it does."""
    when: str
    """When a user should touch it."""
    kind: str
    """What kind of value it is, in a word or two."""


def sections() -> Iterator[tuple[str, str]]:
    """Names of the block's sections and what each is for, in order."""
    for spec in fields(GeoConfig):
        if is_dataclass(spec.default_factory):
            yield spec.name, spec.metadata["help"]


def settings() -> Iterator[Setting]:
    """Every setting of the block, in order."""
    for prefix, spec in _walk(GeoConfig):
        yield Setting(
            key=prefix + spec.name,
            default=spec.default,
            allowed=spec.metadata["rule"].allowed,
            help=spec.metadata["help"],
            when=spec.metadata["when"],
            kind=spec.metadata["rule"].kind,
        )


def differences(a: Mapping, b: Mapping) -> list[str]:
    """One line for each setting in which two `to_dict()`s differ, dotted key and both values; empty if none does.

    Settings that may differ per site are left out, as in `GeoConfig.fingerprint`.
    """
    left, right = _flat(a), _flat(b)
    missing = object()
    lines = []
    for key in dict.fromkeys((*left, *right)):
        one, other = left.get(key, missing), right.get(key, missing)
        if key not in PER_SITE and (one != other or isinstance(one, bool) != isinstance(other, bool)):
            texts = ["not set" if value is missing else json.dumps(value) for value in (one, other)]
            lines.append(f"{key}: {texts[0]} against {texts[1]}")
    return lines


def _walk(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for spec in fields(kind):
        if is_dataclass(spec.default_factory):
            yield from _walk(spec.default_factory, f"{prefix}{spec.name}.")
        else:
            yield prefix, spec


def as_dict(value: object) -> Any:
    if isinstance(value, Outer | Overlap):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {spec.name: as_dict(getattr(value, spec.name)) for spec in fields(value)}
    return list(value) if isinstance(value, list) else value


def _flat(block: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in block.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
