# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The link between sites: latency and time per byte, measured over the real transport. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

PROBE_START_BYTES = 64 * 1024
PROBE_MAX_BYTES = 256 * 1024 * 1024
PROBE_SECONDS = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """alpha-beta model of an exchange between sites: `latency_s + bytes * seconds_per_byte`."""

    latency_s: float
    seconds_per_byte: float

    @property
    def megabits_per_second(self) -> float:
        return 8e-6 / self.seconds_per_byte

    def seconds(self, messages: int, nbytes: float) -> float:
        """Time of `messages` exchanges, one after the other, carrying `nbytes` bytes per site in all."""
        return messages * self.latency_s + nbytes * self.seconds_per_byte


def probe_link(exchange: Callable[[int], float]) -> Link:
    """Fits a `Link` to timed exchanges.

    `exchange(nbytes)` sends that many bytes to every peer and receives as many, all at once, and returns seconds
    that all ranks agree on (the slowest's), so that every rank probes the same sizes. The size grows until one
    exchange takes `PROBE_SECONDS`.
    """
    latency = median(exchange(1) for _ in range(5))
    nbytes = PROBE_START_BYTES
    while True:
        seconds = exchange(nbytes)
        if seconds >= PROBE_SECONDS or nbytes >= PROBE_MAX_BYTES:
            break
        nbytes *= 4 if seconds < PROBE_SECONDS / 8 else 2
    return Link(latency_s=latency, seconds_per_byte=max(seconds - latency, 1e-9) / nbytes)
