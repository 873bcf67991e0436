# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How long bytes may gather before the loop looks again. Pure: times come in.

A line of 100 Mbit/s brings a packet every tenth of a millisecond. A loop that woke for each few of them took a quarter
of a training step's time from the thread that trains beside it. It sleeps outright, as asking the kernel to wake it
for more (SO_RCVLOWAT) keeps TCP's window shut: over 150 ms the first transfer took 12 s in place of 1.6.
"""

_GATHER = 96 * 1024
"""Bytes in the direction that brings more: less than the kernel holds unsent, or a line would never get faster."""
_LEAST_S, _MOST_S = 0.0005, 0.01
_WEIGHT = 0.2
"""Of the latest look in what bytes per second are taken to be."""


class Pace:
    """Of one swap."""

    def __init__(self, to_come: int, to_go: int, now: float) -> None:
        """So many bytes are to come and to go."""
        self._left = {True: to_come, False: to_go}
        self._moved = dict.fromkeys(self._left, 0)
        self._at, self._per_s = now, 0.0

    def moved(self, nbytes: int, *, here: bool) -> None:
        """So many have come `here`, or gone."""
        self._moved[here] += nbytes
        self._left[here] -= nbytes

    def pause_s(self, now: float) -> float:
        """Seconds that may be slept now; 0 near the end, and until it is known how fast bytes move."""
        moved, took_s = max(self._moved.values()), now - self._at
        self._moved, self._at = dict.fromkeys(self._left, 0), now
        if took_s > 0:
            rate = moved / took_s
            self._per_s += (_WEIGHT if self._per_s else 1) * (rate - self._per_s)
        left = max(self._left.values())
        if left <= 0 or not self._per_s:
            return 0.0
        pause_s = min(_MOST_S, min(_GATHER, left) / self._per_s)
        return pause_s if pause_s >= _LEAST_S else 0.0
