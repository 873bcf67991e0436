# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How long a step takes when nothing crosses the WAN."""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class StepTimer:
    """Collects step durations, in seconds, and leaves out the first ones (allocation, compilation, caches)."""

    warmup: int = 3
    wanted: int = 6
    durations: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        self.durations.append(seconds)

    @property
    def done(self) -> bool:
        return len(self.durations) >= self.warmup + self.wanted

    @property
    def step_s(self) -> float:
        """Lower quartile of the steps after the warm-up: what disturbs a step only ever makes it longer."""
        steady = sorted(self.durations[self.warmup :])
        return steady[len(steady) // 4]
