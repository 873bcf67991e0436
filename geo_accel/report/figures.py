# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One run's figures: what its tracker is told while it goes on, and its summary."""

import json
from collections.abc import Callable
from time import perf_counter

from geo_accel.plan.cost import bytes_per_value
from geo_accel.plan.plan import Plan


class Figures:
    """Bytes sent, seconds that training has waited, and the plans that it has followed. Not collective."""

    def __init__(self, bytes_sent: Callable[[], int]) -> None:
        """`bytes_sent()` counts the payload bytes that this rank has sent to other sites, whatever for."""
        self._bytes_sent, self._sent_before = bytes_sent, bytes_sent()
        self.exposed_s = 0.0
        """Seconds that training has waited for the WAN in its steps, flushes not counted."""
        self.flush_s = 0.0
        self.plans: list[dict[str, object]] = []
        """Of each plan that was adopted the step, and what it is in short."""
        self._plan: Plan | None = None
        self._since = self._exposed_before = 0.0

    @property
    def wan_bytes(self) -> int:
        """Payload bytes that this rank has sent to other sites since then."""
        return self._bytes_sent() - self._sent_before

    def waited(self, seconds: float) -> None:
        self.exposed_s += seconds

    def adopted(self, plan: Plan, step: int) -> None:
        """`plan` begins in `step`."""
        self._plan = plan
        self._since, self._exposed_before = perf_counter(), self.exposed_s
        facts = {key: getattr(plan, key) for key in ("period", "delay", "codec", "reason")}
        self.plans.append({"step": step, **facts})

    def metrics(self) -> dict[str, float]:
        """Scalars for the run's tracker; `geo/efficiency` is of the time since the plan began."""
        values = {"geo/exposed_s": self.exposed_s, "geo/wan_bytes": float(self.wan_bytes)}
        if self._plan is not None:
            averaging = self._plan.averaging
            values |= {"geo/period": self._plan.period, "geo/codec_bits": 8 * bytes_per_value(averaging)}
            elapsed = perf_counter() - self._since
            exposed = self.exposed_s - self._exposed_before
            values["geo/efficiency"] = 1 - exposed / elapsed if elapsed > 0 else 1.0
        return values

    def summary(self, steps: int) -> dict[str, object]:
        """What was done so far, ready for JSON."""
        return {
            "plan": json.loads(self._plan.to_json()) if self._plan else None,
            "plans": list(self.plans),
            "steps": steps,
            "wan_bytes": self.wan_bytes,
            "exposed_s": self.exposed_s,
            "flush_s": self.flush_s,
        }
