# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Results on disk, one JSON file each, named by a hash of the job: a finished job is never run again."""

import json
import math
import os
from pathlib import Path

from benchmarks.kit.job import Job


class Store:
    """A folder of results. Files appear whole: they are written under another name first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.digests: dict[str, dict[str, str]] = {}
        """Of the material, by what `material.name_of` calls it."""
        self.refused: dict[str, str] = {}
        """Why a job cannot be run, by its key; not kept, so that a later campaign tries again."""
        self._read: dict[str, dict] = {}

    def key(self, job: Job) -> str:
        from benchmarks.kit.material import name_of

        return job.key(self.digests.get(name_of(job), dict.fromkeys(("texts", "start", "documentation"), "")))

    def find(self, job: Job) -> dict | None:
        """`recordings` by site, `link_mbps`, `date`, `code`, `device` and `job`; None without a result."""
        key = self.key(job)
        if key not in self._read:
            try:
                self._read[key] = json.loads((self.folder / f"{key}.json").read_text())
            except FileNotFoundError:
                return None
        return self._read[key]

    def loss(self, job: Job) -> float | None:
        """Held-out loss, nats per token: infinite for a job that diverged or was refused, None without a result."""
        result = self.find(job)
        if result is None:
            return math.inf if self.key(job) in self.refused else None
        loss = result["recordings"][0]["loss"]
        return math.inf if loss is None else loss

    def save(self, job: Job, result: dict) -> None:
        """Keeps a result."""
        key = self.key(job)
        write_json(self.folder / f"{key}.json", result)
        self._read[key] = result


def write_json(path: Path, value: object, indent: int | None = None) -> None:
    """Writes under another name and renames."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=indent) + "\n")
    temporary.replace(path)
