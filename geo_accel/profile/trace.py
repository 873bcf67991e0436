# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What happened when, or is predicted to: Chrome's trace format, which Perfetto reads too.

Tracks are "step", "forward", "backward", "update", "transfer", "wait" and "flush", for plans and real runs alike.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, time

from geo_accel.profile.document import write_whole

TRACE_VARIABLE = "GEO_ACCEL_TRACE"


def process(number: int, name: str) -> dict:
    """The event that names a process; a rank is one, and has its number among those of all sites."""
    return {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}


def event(process: int, track: str, name: str, start: float, stop: float, **details: object) -> dict:
    """Something that took from `start` to `stop` (seconds) on a track of a process."""
    return {
        "ph": "X",
        "name": name,
        "cat": track,
        "pid": process,
        "tid": track,
        "ts": start * 1e6,
        "dur": (stop - start) * 1e6,
        "args": details,
    }


def write_trace(path: Path, events: Sequence[dict]) -> None:
    """Writes a trace file whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: partial.write_text(json.dumps({"traceEvents": list(events)})))


class Trace:
    """Collects one rank's events in memory; `save` writes them. Times are seconds of `time.perf_counter`."""

    def __init__(self, folder: str | None, rank: int, name: str) -> None:
        """`name` says site and place, as in "paris.0"."""
        self._path = Path(folder) / f"{name}.trace.json" if folder else None
        self._rank = rank
        self._origin = time() - perf_counter()  # so that traces of several ranks share one clock
        self._events = [process(rank, name)]

    @classmethod
    def from_environment(cls, rank: int, name: str) -> "Trace":
        """A trace into the folder that `GEO_ACCEL_TRACE` names; collects nothing where it is unset."""
        return cls(os.environ.get(TRACE_VARIABLE), rank, name)

    @property
    def wanted(self) -> bool:
        return self._path is not None

    def add(self, track: str, name: str, start: float, stop: float, **details: object) -> None:
        if self.wanted:
            self._events.append(event(self._rank, track, name, self._origin + start, self._origin + stop, **details))

    def save(self) -> None:
        if self._path is not None:
            write_trace(self._path, self._events)
