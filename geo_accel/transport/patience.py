# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How long a peer that shows no progress is waited for. Pure: seconds come in, a number of seconds comes out."""

from collections import deque

LONGEST_S = 1800.0
"""As long as Trainer waits for other processes: one of them may be busy, and is named meanwhile."""
_LEAST_S = 600.0
"""A checkpoint or an evaluation that only one site makes may come at any time, however quick all was before."""
_TIMES = 20
_QUANTILE = 0.99
_ENOUGH, _KEPT = 20, 512


class Patience:
    """Stated by the user, or so much more than all that was seen of this run."""

    def __init__(self, stated_s: float | None = None) -> None:
        """`stated_s` seconds, or None to go by what is seen."""
        self._stated_s = stated_s
        self._seen: deque[float] = deque(maxlen=_KEPT)
        self.seconds = LONGEST_S if stated_s is None else stated_s
        """After so many without progress a peer counts as lost: twenty times what all but a hundredth of waits took,
        within reason. Transports ask in every turn of their loops."""

    def saw(self, quiet_s: float) -> None:
        """A peer came back after `quiet_s` seconds without progress."""
        self._seen.append(quiet_s)
        if self._stated_s is None and len(self._seen) >= _ENOUGH:
            usual = sorted(self._seen)[int(_QUANTILE * (len(self._seen) - 1))]
            self.seconds = min(LONGEST_S, max(_LEAST_S, _TIMES * usual))
