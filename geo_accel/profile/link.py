# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The link between sites: latency and time per byte, measured over the real transport. No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

PROBE_START_BYTES = 64 * 1024
PROBE_MAX_BYTES = 256 * 1024 * 1024
PROBE_SECONDS = 0.2
"""What a line is filled for."""
PROBE_LONGEST_S = 1.0
LONG_LATENCY_S = PROBE_SECONDS / 4
"""From here on a probe mostly waits for acknowledgements."""
PROBE_LATENCIES = 20
"""A probe tries nothing new after so many seconds and latencies together."""

# What Linux waits for an acknowledgement beyond a round trip.
_TIMEOUT_S = 0.2
# A short transfer says little about how long a much longer one takes.
_MOST_GROWTH = 8
# Goodput that grows by more shows a connection that was still opening its window.
_ALIKE = 1.1
# A transfer that takes less than this many latencies beyond the first has not waited for an acknowledgement.
_ONE_BURST = 0.8
# Where a latency takes long, so does every step of the way to the size that is wanted, and less is enough.
_LONG_LINE_BYTES = 256 * 1024
_OF_A_LONG_LATENCY = 0.6
# One loss in a thousand packets shows in 4 MB. It matters where the way back to a full window is long.
_LASTING_BYTES = 4_000_000
_LASTING_S = 0.5
_LASTING_LATENCY_S = 0.005
# What a lost packet costs at least, in latencies, and in shares of what a transfer takes: less is noise.
_LOSS_LATENCIES, _LOSS_SHARE = 0.5, 0.2
# So long a window is watched that has begun to shrink, of which the end counts.
_SHRINKING_S, _END_S = 5.0, 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """alpha-beta model of an exchange between sites: `latency_s + bytes * seconds_per_byte`."""

    latency_s: float
    seconds_per_byte: float
    """Of what the site sends."""
    down_seconds_per_byte: float | None = None
    """Of what it receives; None: the same."""
    loses: bool = False
    """Whether packets are lost, so that a transfer now and then takes longer by a timeout."""

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
            loses=any(link.loses for link in links),
        )

    @property
    def down(self) -> float:
        """Seconds per byte that the site receives."""
        return self.seconds_per_byte if self.down_seconds_per_byte is None else self.down_seconds_per_byte

    def slower(self, factor: float) -> "Link":
        """The same with `factor` times the seconds per byte, in both directions."""
        down = self.down_seconds_per_byte
        return replace(
            self,
            seconds_per_byte=self.seconds_per_byte * factor,
            down_seconds_per_byte=None if down is None else down * factor,
        )

    @property
    def megabits_per_second(self) -> float:
        return 8e-6 / self.seconds_per_byte

    @property
    def timeout_s(self) -> float:
        """Seconds after which TCP takes for lost what was not acknowledged; a lost packet costs up to so many."""
        return self.latency_s + _TIMEOUT_S

    def seconds(self, messages: float, nbytes: float) -> float:
        """Time of `messages` exchanges, one after the other, carrying `nbytes` bytes per site in all."""
        return messages * self.latency_s + nbytes * self.seconds_per_byte


def probe_links(
    exchange: Callable[[int], Sequence[float]],
    latency: Sequence[float],
    longest_s: float = PROBE_SECONDS,
    have_lost: Callable[[], bool] | None = None,
) -> list[Link]:
    """One `Link` per party, from timed exchanges of growing size.

    `exchange(nbytes)` sends that many bytes each way and returns every party's seconds, the same list on every rank,
    so that all probe the same sizes; `latency` are those of an exchange of nothing. `have_lost()` tells, all ranks
    alike, whether packets were lost since it was last asked; without it, transfers that take too long do.

    TCP opens its window while it sends. A transfer counts when it waited for no acknowledgement, or when the one
    before, of the same size, was as fast; the size grows until one that counts takes `longest_s` seconds beyond the
    latency, or less on long lines. Then the same is sent until so much has passed without loss that it will last. If
    it does not, the window is watched while it shrinks, and what passes in the end counts.

    Begins nothing larger after `PROBE_LONGEST_S` seconds and `PROBE_LATENCIES` latencies together; on a line that
    loses packets another few seconds follow.
    """
    probe = _Probe(exchange, max(latency), have_lost)
    counted = probe.lasting(probe.fill(longest_s))
    nbytes = sum(size for size, _ in counted)
    return [
        Link(
            latency_s=alpha,
            seconds_per_byte=max(sum(taken[party] - alpha for _, taken in counted) / nbytes, 1e-12),
            loses=probe.loses,
        )
        for party, alpha in enumerate(latency)
    ]


class _Probe:
    """One probe's transfers; seconds of a transfer are the slowest party's, beyond the latency."""

    def __init__(
        self,
        exchange: Callable[[int], Sequence[float]],
        latency_s: float,
        have_lost: Callable[[], bool] | None,
    ) -> None:
        self._exchange, self._latency_s, self._have_lost = exchange, latency_s, have_lost
        self._spent = 0.0
        self.loses = False
        """Whether packets were lost."""
        self._sent: list[tuple[int, Sequence[float]]] = []
        """Since the size last grew."""

    def _beyond(self, taken: Sequence[float]) -> float:
        return max(max(taken) - self._latency_s, 1e-9)

    def _send(self, nbytes: int) -> float:
        taken = self._exchange(nbytes)
        self._sent.append((nbytes, taken))
        self._spent += max(taken)
        return self._beyond(taken)

    def fill(self, longest_s: float) -> int:
        """Sends more and more until the line is filled; returns the size that filled it."""
        latency_s = self._latency_s
        long = latency_s >= longest_s / 4
        wanted_s = min(longest_s, max(longest_s / 4, _OF_A_LONG_LATENCY * latency_s)) if long else longest_s
        most_s = PROBE_LONGEST_S + PROBE_LATENCIES * latency_s
        nbytes, best = _LONG_LINE_BYTES if long else PROBE_START_BYTES, 0.0
        while True:
            rate = self._open(nbytes, best, most_s)
            best, beyond = max(best, rate), nbytes / rate
            if beyond >= wanted_s or nbytes >= PROBE_MAX_BYTES or self._spent >= most_s:
                return nbytes
            # What is wanted and a tenth more, so that it is not missed by a little and probed once more.
            nbytes = int(nbytes * min(_MOST_GROWTH, 1.1 * wanted_s / beyond))

    def _open(self, nbytes: int, best: float, most_s: float) -> float:
        """Sends `nbytes` until the window holds them; returns bytes per second then. `best` is what others reached."""
        self._sent = []
        before = None
        while True:
            beyond = self._send(nbytes)
            rate = nbytes / beyond
            steady = 0 < best <= _ALIKE * rate if before is None else rate <= _ALIKE * before
            if steady or beyond < _ONE_BURST * self._latency_s or (before is not None and self._spent >= most_s):
                return rate
            before = rate

    def lasting(self, nbytes: int) -> list[tuple[int, Sequence[float]]]:
        """The transfers, with their bytes, that say what the line carries, now that its window holds `nbytes`."""
        per_byte = min(self._beyond(taken) for _, taken in self._sent) / nbytes
        more = int(min(_LASTING_BYTES - nbytes, _LASTING_S / per_byte))
        watched = self._latency_s >= _LASTING_LATENCY_S
        if watched and more > 0 and not self._took_too_long(per_byte):
            self._send(more)
        if not watched or not (self._took_too_long(per_byte) or (self._have_lost is not None and self._have_lost())):
            return [(size, t) for size, t in self._sent if self._beyond(t) <= _ALIKE * per_byte * size]
        end = self._spent + _SHRINKING_S
        while self._spent < end:
            # The less passes, the less is sent.
            size, taken = self._sent[-1]
            self._send(max(PROBE_START_BYTES, min(_LASTING_BYTES, int(_END_S / 2 * size / self._beyond(taken)))))
        # What was lost while the window opened may have been lost because it had opened too far.
        self.loses = self._have_lost is None or self._have_lost()
        shrunk, seconds = [], 0.0
        while seconds < _END_S and self._sent:
            shrunk.append(self._sent.pop())
            seconds += max(shrunk[-1][1])
        return shrunk

    def _took_too_long(self, per_byte: float) -> bool:
        """Whether the last transfer must have sent something again, if otherwise a byte takes so many seconds."""
        size, taken = self._sent[-1]
        usual = per_byte * size
        return self._beyond(taken) > usual + max(_LOSS_LATENCIES * self._latency_s, _LOSS_SHARE * usual)
