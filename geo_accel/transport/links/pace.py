# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How long bytes may gather before the loop looks again. Pure: times come in.

A line of 100 Mbit/s brings a packet every tenth of a millisecond. A loop that woke for each few of them took a quarter
of a training step's time from the thread that trains beside it. It sleeps outright, as asking the kernel to wake it
for more (SO_RCVLOWAT) keeps TCP's window shut: over 150 ms the first transfer took 12 s in place of 1.6.
"""

from math import exp

_GATHER = 192 * 1024
"""Bytes in the direction that brings more: half of what the kernel holds unsent, so that a line is never without."""
_LEAST_S, _MOST_S = 0.0005, 0.02
_REMEMBERED_S = 0.1
"""Seconds of moving that what bytes per second are taken to be goes back to."""


class Pace:
    """Of a transport's swaps, one after the other."""

    def __init__(self) -> None:
        self._left = {True: 0, False: 0}
        self._moved = dict.fromkeys(self._left, 0)
        self._at = self._bytes = self._seconds = 0.0
        self._is_first = True

    def begin(self, to_come: int, to_go: int, now: float) -> None:
        """A swap in which so many bytes are to come and to go. It begins as fast as the last one was."""
        self._left, self._moved, self._at = {True: to_come, False: to_go}, dict.fromkeys(self._left, 0), now
        self._is_first = True

    def moved(self, nbytes: int, *, here: bool) -> None:
        """So many have come `here`, or gone."""
        self._moved[here] += nbytes
        self._left[here] -= nbytes

    def pause_s(self, now: float) -> float:
        """Seconds that may be slept now; 0 near the end, where nothing moves, and until it is known how fast it
        does."""
        moved, took_s = max(self._moved.values()), now - self._at
        self._moved, self._at = dict.fromkeys(self._left, 0), now
        if not moved:
            return 0.0
        if self._is_first:  # the system takes the first bytes of a swap in no time
            self._is_first = False
        else:
            fades = exp(-took_s / _REMEMBERED_S)
            self._bytes, self._seconds = fades * self._bytes + moved, fades * self._seconds + took_s
        left = max(self._left.values())
        if left <= 0 or not self._seconds:
            return 0.0
        pause_s = min(_MOST_S, min(_GATHER, left) * self._seconds / self._bytes)
        return pause_s if pause_s >= _LEAST_S else 0.0
