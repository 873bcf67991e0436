# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Names that the config, plans, the wire and the commands share. Each stands here once; all are what files say."""

from dataclasses import dataclass
from typing import Final, Literal

AUTO: Final = "auto"
"""The choice is ours."""
Auto = Literal["auto"]
"""The type of AUTO, beside which a setting that is no text can be told apart."""


class Mode:
    """Behind what transfers hide."""

    STREAM = "stream"
    """Behind whole steps: a round is applied some steps after its start."""
    BACKWARD = "backward"
    """Behind the backward pass, inside which rounds start and end."""
    BLOCKING = "blocking"
    """Behind nothing: training waits."""


MODES = (Mode.STREAM, Mode.BACKWARD, Mode.BLOCKING)


class Schedule:
    """Which layers are sent in which step of a period."""

    FULL = "full"
    """All in the last one."""
    EQUAL = "equal"
    """As many layers in each."""
    DREAMDDP = "dreamddp"
    """What hides best behind backward (arXiv:2502.11058)."""
    STREAM = "stream"
    """As many bytes in each."""
    MANUAL = "manual"
    """As a plan's file says."""


SCHEDULES = (Schedule.FULL, Schedule.EQUAL, Schedule.DREAMDDP, Schedule.STREAM)
"""Those that plans are made by."""


class Exchange:
    """How payloads cross."""

    DIRECT = "direct"
    """Everyone sends to everyone."""
    HUB = "hub"
    """One site averages and answers."""
    TWO_SHOT = "two-shot"
    """Everyone averages a share: of dense codecs only."""


EXCHANGES = (Exchange.DIRECT, Exchange.HUB, Exchange.TWO_SHOT)


class Residual:
    """Where that waits which a codec did not send."""

    WEIGHTS = "weights"
    BUFFER = "buffer"
    NONE = "none"
    """Nowhere: it is lost."""


RESIDUALS = (Residual.WEIGHTS, Residual.BUFFER, Residual.NONE)


class Coefficients:
    """What each site counts in the average."""

    EQUAL = "equal"
    DATA = "data"
    """By its number of processes."""
    BLEND = "blend"
    """Half by that, half by how much it sends (BCRS)."""


COEFFICIENTS = (Coefficients.EQUAL, Coefficients.DATA, Coefficients.BLEND)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFacts:
    """What is known of a codec without the code that encodes, which is in wire/."""

    name: str
    bytes_per_value: float
    """That a value which is sent takes, its share of its block's scale included, its place not."""
    lossless: bool = False
    sparse: bool = False
    """Whether only `compression.ratio` of the values are sent, equally many of every `SPARSE_CHUNK`."""
    says_places: bool = False
    """Whether it says which values those are; a sparse one that does not draws them from a seed that all share."""
    automatic: bool = True
    """Whether "auto" may choose it."""


# int8, int4 and int2 have an fp32 scale for every 128 values.
CODEC_FACTS = {
    codec.name: codec
    for codec in (
        CodecFacts(name="fp32", bytes_per_value=4, lossless=True),
        CodecFacts(name="bf16", bytes_per_value=2),
        CodecFacts(name="int8", bytes_per_value=1 + 4 / 128),
        CodecFacts(name="int4", bytes_per_value=1 / 2 + 4 / 128),
        CodecFacts(name="int2", bytes_per_value=1 / 4 + 4 / 128),
        CodecFacts(name="topk", bytes_per_value=1 / 2 + 4 / 128, sparse=True, says_places=True),
        # For comparisons only.
        CodecFacts(name="randk", bytes_per_value=1 / 2 + 4 / 128, sparse=True, automatic=False),
    )
}
"""By name, from many bits to few."""
CODECS = tuple(CODEC_FACTS)
DENSE_CODECS = tuple(name for name, codec in CODEC_FACTS.items() if not codec.sparse)
"""Codecs that send every value."""
SPARSE_CODECS = tuple(name for name, codec in CODEC_FACTS.items() if codec.sparse)
"""Codecs that send `compression.ratio` of the values."""
AUTOMATIC_CODECS = tuple(name for name, codec in CODEC_FACTS.items() if codec.automatic)
SPARSE_CHUNK = 4096
"""A sparse codec keeps equally many of every so many values, a whole number that all sites agree on."""
HUB_ANSWER = "int8"
"""The dense codec that a hub answers with where that is smaller than all that sites have kept."""
