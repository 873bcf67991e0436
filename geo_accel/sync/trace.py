# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What happened when, on one rank: steps, transfers and waits, in Chrome's trace format (also read by Perfetto)."""

import json
import os
from pathlib import Path
from time import perf_counter, time

TRACE_VARIABLE = "GEO_ACCEL_TRACE"


class Trace:
    """Collects events in memory; `save` writes them. Times are seconds of `time.perf_counter`."""

    def __init__(self, folder: str | None, rank: int, site: str) -> None:
        self._path = Path(folder) / f"rank-{rank}.trace.json" if folder else None
        self._rank = rank
        self._origin = time() - perf_counter()  # so that traces of several ranks share one clock
        self._events: list[dict] = [
            {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"{site}, rank {rank}"}}
        ]

    @classmethod
    def from_environment(cls, rank: int, site: str) -> "Trace":
        """A trace into the folder that `GEO_ACCEL_TRACE` names; collects nothing where it is unset."""
        return cls(os.environ.get(TRACE_VARIABLE), rank, site)

    def add(self, track: str, name: str, start: float, stop: float, **details: object) -> None:
        if self._path is None:
            return
        self._events.append(
            {
                "ph": "X",
                "name": name,
                "cat": track,
                "pid": self._rank,
                "tid": track,
                "ts": (self._origin + start) * 1e6,
                "dur": (stop - start) * 1e6,
                "args": details,
            }
        )

    def save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".tmp")
        partial.write_text(json.dumps({"traceEvents": self._events}))
        partial.replace(self._path)
