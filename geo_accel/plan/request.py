# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a plan is asked for: the settings of the "geo_accel" block that plans are made from."""

from dataclasses import dataclass

from geo_accel.config import DENSE_CODECS, SPARSE_CODECS
from geo_accel.plan.averaging import Outer

DEFAULT_SCHEDULES = {"stream": "stream", "backward": "dreamddp", "blocking": "full"}
BUDGET = {"stream": 0.03, "backward": 0.1, "blocking": 0.1}
"""By mode, the share of a step that synchronising may cost where the period is ours to choose, waiting and computing
together, as it is estimated (clock-*.md in benchmarks/results say what it turns out to be). Without overlap by whole
steps the last units' transfers can hide behind nothing, and a tenth is what we accept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user fixed; "auto" where the choice is ours."""

    mode: str
    period: int | str = "auto"
    schedule: str = "auto"
    delay: int | str = "auto"
    codec: str = "auto"
    ratio: float | str = "auto"
    exchange: str = "auto"
    residual: str = "auto"
    overlap: tuple[int, float] | bool | str = "auto"
    """Threshold and gain, or whether to take the mean over those that sent."""
    coefficients: str = "equal"
    """"equal", "data" or "blend"."""
    outer: Outer | str = "auto"
    ranks: tuple[int, ...] = ()
    """Of every site; empty: one each."""

    @property
    def resolved_schedule(self) -> str:
        return DEFAULT_SCHEDULES[self.mode] if self.schedule == "auto" else self.schedule

    @property
    def codecs(self) -> tuple[str, ...]:
        """Those that the choice is between. Random places are for comparisons only."""
        return (*DENSE_CODECS, "topk") if self.codec == "auto" else (self.codec,)

    @property
    def needs_measurement(self) -> bool:
        """Whether computing and links must be known before a plan can be made."""
        open_delay = self.mode == "stream" and self.delay == "auto"
        open_ratio = self.codec in SPARSE_CODECS and self.ratio == "auto"
        return "auto" in (self.period, self.codec) or open_delay or open_ratio or self.resolved_schedule == "dreamddp"
