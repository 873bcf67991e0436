# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Results on disk, one JSON file each, named by a hash of the job: a finished job is never run again."""

import json
import math
import os
from pathlib import Path

from benchmarks.kit.job import Job


class Store:
    """A folder of results and of the material that they were made with. Files appear whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._read: dict[str, dict] = {}

    def find(self, job: Job) -> dict | None:
        """`recordings` by site, `link_mbps`, `duration_s`, `notes` and `job`; None without a result."""
        if job.key not in self._read:
            try:
                self._read[job.key] = json.loads((self.folder / f"{job.key}.json").read_text())
            except FileNotFoundError:
                return None
        return self._read[job.key]

    def loss(self, job: Job) -> float | None:
        """Held-out loss, nats per token: infinite for a job that diverged, None without a result."""
        result = self.find(job)
        if result is None:
            return None
        loss = result["recordings"][0]["loss"]
        return math.inf if loss is None else loss

    def save(self, job: Job, result: dict) -> None:
        """Keeps a result."""
        write_json(self.folder / f"{job.key}.json", result)
        self._read[job.key] = result


def write_json(path: Path, value: object, indent: int | None = None) -> None:
    """Writes under another name and renames."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=indent) + "\n")
    temporary.replace(path)
