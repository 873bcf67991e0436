# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What one site wants all sites to do together: told with rounds, so that it costs no message of its own.

A wish goes out with the next round that this site begins. All sites apply a round at the same boundary, and there all
know what any of them wished with it. Pure: the boundary and the round's step decide, never the time.
"""

WISHES = ("save", "evaluate", "stop", "stop_epoch", "flush")
"""In the order of their bits; "flush" is to hold the same weights, for somebody to write."""


class Wishes:
    """One rank's view of everybody's wishes."""

    def __init__(self) -> None:
        self._waiting = 0
        self._agreed = 0
        self._met: dict[int, int] = {}
        """Of each bit, the boundary at which it was last agreed."""

    def wish(self, what: str) -> None:
        """Wants `what`, one of WISHES; said again before it was told, it counts once."""
        self._waiting |= _bit(what)

    def told(self) -> int:
        """The bits that go out with the round that begins now; they are told once."""
        bits, self._waiting = self._waiting, 0
        return bits

    def heard(self, bits: int, *, begun: int, boundary: int) -> None:
        """Everybody's `bits` of a round that began at step `begun` and is applied at `boundary`.

        What was wished before all did it is done: two sites that wish the same within one delay get it once.
        """
        for place in range(len(WISHES)):
            if bits >> place & 1 and begun >= self._met.get(place, -1):
                self._agreed |= 1 << place
                self._met[place] = boundary

    def take(self) -> frozenset[str]:
        """What is to be done at this boundary, the same on every rank; it is given out once."""
        bits, self._agreed = self._agreed, 0
        return frozenset(name for place, name in enumerate(WISHES) if bits >> place & 1)


def _bit(what: str) -> int:
    assert what in WISHES, what
    return 1 << WISHES.index(what)
