# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A line as one TCP connection sees it: its window opens from ten packets, and halves when it loses one."""

import math
import random

PACKET = 1448.0


class TcpLine:
    """`line(nbytes)` sends, and returns the seconds as a probe wants them. Reno, on a clock of its own."""

    def __init__(self, mbps, round_trip_s, loss=0.0, seed=0):
        self.rate, self.round_trip_s, self.loss = mbps / 8e-6, round_trip_s, loss
        self.window, self.threshold = 10 * PACKET, math.inf
        self.random = random.Random(seed)
        self.spent = 0.0
        self.lost = self._known = 0

    def __call__(self, nbytes):
        seconds, left = self.round_trip_s, float(nbytes)
        while left > 0:
            burst = min(left, self.window)
            left -= burst
            serial = burst / self.rate
            # Whoever has more to say than the window holds waits for acknowledgements.
            waits = left > 0 and self.window < self.rate * self.round_trip_s
            seconds += max(serial, self.round_trip_s) if waits else serial
            if self.loss and self.random.random() < 1 - (1 - self.loss) ** max(1, burst / PACKET):
                self.lost += 1
                self.window = self.threshold = max(2 * PACKET, self.window / 2)
                seconds += self.round_trip_s  # it is sent again
            else:
                growth = burst if self.window < self.threshold else PACKET * burst / self.window
                self.window = min(self.window + growth, max(2 * self.rate * self.round_trip_s, 1e5))
        self.spent += seconds
        return [seconds]

    def have_lost(self):
        """Since it was last asked."""
        before, self._known = self._known, self.lost
        return self.lost > before

    def lasting_mbps(self, nbytes=1_000_000, times=60):
        """What it carries in the long run."""
        for _ in range(10):
            self(nbytes)
        before = self.spent
        for _ in range(times):
            self(nbytes)
        return 8e-6 * nbytes * times / (self.spent - before - times * self.round_trip_s)
