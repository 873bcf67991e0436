# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The link between sites: latency and time per byte, measured over the real transport. No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

PROBE_START_BYTES = 64 * 1024
PROBE_MAX_BYTES = 256 * 1024 * 1024
PROBE_SECONDS = 0.2
_LATENCIES = 5
# A short transfer says little about how long a much longer one takes.
_MOST_GROWTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """alpha-beta model of an exchange between sites: `latency_s + bytes * seconds_per_byte`."""

    latency_s: float
    seconds_per_byte: float
    """Of what the site sends."""
    down_seconds_per_byte: float | None = None
    """Of what it receives; None: the same."""

    @classmethod
    def of(cls, *, mbps: float, latency_ms: float) -> "Link":
        """From megabits (10^6 bits) per second and milliseconds."""
        return cls(latency_s=latency_ms * 1e-3, seconds_per_byte=8e-6 / mbps)

    @classmethod
    def slowest(cls, links: Sequence["Link"]) -> "Link":
        """What a round that waits for all of them sees."""
        return cls(
            latency_s=max(link.latency_s for link in links),
            seconds_per_byte=max(max(link.seconds_per_byte, link.down) for link in links),
        )

    @property
    def down(self) -> float:
        """Seconds per byte that the site receives."""
        return self.seconds_per_byte if self.down_seconds_per_byte is None else self.down_seconds_per_byte

    def slower(self, factor: float) -> "Link":
        """The same with `factor` times the seconds per byte, in both directions."""
        down = self.down_seconds_per_byte
        return Link(
            latency_s=self.latency_s,
            seconds_per_byte=self.seconds_per_byte * factor,
            down_seconds_per_byte=None if down is None else down * factor,
        )

    @property
    def megabits_per_second(self) -> float:
        return 8e-6 / self.seconds_per_byte

    def seconds(self, messages: float, nbytes: float) -> float:
        """Time of `messages` exchanges, one after the other, carrying `nbytes` bytes per site in all."""
        return messages * self.latency_s + nbytes * self.seconds_per_byte


def probe_links(exchange: Callable[[int], Sequence[float]], longest_s: float = PROBE_SECONDS) -> list[Link]:
    """Fits one `Link` per party to timed exchanges of growing size.

    `exchange(nbytes)` sends that many bytes each way and returns every party's seconds, the same list on every rank,
    so that all probe the same sizes. The size grows until the slowest takes `longest_s` seconds.
    """
    # Busy processors only add to it, and what is too much here would make every link look faster.
    latency = [min(times) for times in zip(*(exchange(1) for _ in range(_LATENCIES)), strict=True)]
    sweep: list[tuple[int, Sequence[float]]] = []
    nbytes = PROBE_START_BYTES
    while True:
        seconds = exchange(nbytes)
        sweep.append((nbytes, seconds))
        if max(seconds) >= longest_s or nbytes >= PROBE_MAX_BYTES:
            break
        # What is wanted and a tenth more, so that it is not missed by a little and probed once more.
        nbytes = int(nbytes * min(_MOST_GROWTH, 1.1 * longest_s / max(seconds)))
    return [
        Link(latency_s=alpha, seconds_per_byte=_slope([(size, times[party]) for size, times in sweep], alpha))
        for party, alpha in enumerate(latency)
    ]


def _slope(points: Sequence[tuple[int, float]], latency: float) -> float:
    """Seconds per byte by least squares through (0, latency): large messages, measured best, weigh most."""
    slope = sum(size * (seconds - latency) for size, seconds in points) / sum(size * size for size, _ in points)
    return max(slope, 1e-12)
