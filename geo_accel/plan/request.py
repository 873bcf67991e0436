# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a plan is asked for: the settings of the "geo_accel" block that plans are made from."""

from dataclasses import dataclass

from geo_accel.config.names import (
    AUTO,
    AUTOMATIC_CODECS,
    SPARSE_CODECS,
    Auto,
    Coefficients,
    Exchange,
    Mode,
    Schedule,
)
from geo_accel.config.parts import Outer, Overlap
from geo_accel.config.schema import GeoConfig

DEFAULT_SCHEDULES = {Mode.STREAM: Schedule.STREAM, Mode.BACKWARD: Schedule.DREAMDDP, Mode.BLOCKING: Schedule.FULL}
BUDGET = {Mode.STREAM: 0.03, Mode.BACKWARD: 0.1, Mode.BLOCKING: 0.1}
"""By mode, the share of a step that synchronising may cost where the period is ours to choose, waiting and computing
together, as it is estimated (clock-*.md in benchmarks/results say what it turns out to be). Without overlap by whole
steps the last units' transfers can hide behind nothing, and a tenth is what we accept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user fixed; "auto" where the choice is ours."""

    mode: str
    period: int | Auto = AUTO
    schedule: str = AUTO
    delay: int | Auto = AUTO
    codec: str = AUTO
    ratio: float | Auto = AUTO
    exchange: str = AUTO
    residual: str = AUTO
    overlap: Overlap | bool | Auto = AUTO
    """True is the mean over those that sent."""
    coefficients: str = Coefficients.EQUAL
    """"equal", "data" or "blend"."""
    outer: Outer | Auto = AUTO

    @classmethod
    def of(cls, config: GeoConfig) -> "Request":
        """What a checked config asks for."""
        sync, compression = config.sync, config.compression
        return cls(
            mode=sync.mode,
            period=sync.period,
            schedule=sync.schedule,
            delay=sync.delay,
            codec=compression.codec,
            ratio=compression.ratio,
            exchange=sync.exchange,
            residual=compression.residual,
            overlap=compression.overlap_weighting,
            coefficients=compression.coefficients,
            outer=sync.outer,
        )

    @property
    def resolved_schedule(self) -> str:
        return DEFAULT_SCHEDULES[self.mode] if self.schedule == AUTO else self.schedule

    @property
    def codecs(self) -> tuple[str, ...]:
        """Those that the choice is between."""
        if self.codec != AUTO:
            return (self.codec,)
        dense_only = self.exchange == Exchange.TWO_SHOT
        return tuple(codec for codec in AUTOMATIC_CODECS if not (dense_only and codec in SPARSE_CODECS))

    @property
    def needs_measurement(self) -> bool:
        """Whether computing and links must be known before a plan can be made."""
        open_delay = self.mode == Mode.STREAM and self.delay == AUTO
        open_ratio = self.codec in SPARSE_CODECS and self.ratio == AUTO
        return (
            AUTO in (self.period, self.codec)
            or open_delay
            or open_ratio
            or self.resolved_schedule == Schedule.DREAMDDP
        )
