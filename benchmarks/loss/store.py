# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Runs and their results on disk: a finished run is never made again."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.loss.cases import Case
from benchmarks.loss.results import ResultFiles
from benchmarks.loss.setting import Setting


class RunFailed(RuntimeError):
    """Training processes failed; the message has the last lines of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training."""

    case: Case
    rate: float
    """Largest learning rate."""
    seed: int

    def definition(self, setting: Setting, digests: Mapping[str, str]) -> dict:
        """Everything that decides the result, ready for JSON; names for people are no part of it."""
        group = self.case.group
        return {
            "setting": asdict(setting),
            "task": group.task,
            "sites": group.sites,
            "split": group.split,
            "kinds": list(group.texts),
            "method": self.case.method,
            "period": self.case.period,
            "config": self.case.config,
            "rate": self.rate,
            "seed": self.seed,
            "texts": digests["texts"],
            "start": digests["start"] if group.task == "finetune" else None,
        }

    def key(self, setting: Setting, digests: Mapping[str, str]) -> str:
        """A hash of the definition, in hex."""
        text = json.dumps(self.definition(setting, digests), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]


class Store:
    """The results of runs."""

    def __init__(self, folder: Path, setting: Setting, digests: Mapping[str, str]) -> None:
        self.folder, self.setting, self.digests = folder, setting, dict(digests)
        self._files = ResultFiles(folder)

    def key(self, run: Run) -> str:
        return run.key(self.setting, self.digests)

    def find(self, run: Run) -> dict | None:
        """The result of a run, as `save_result` wrote it; None where there is none."""
        return self._files.find(self.key(run))

    def loss(self, run: Run) -> float | None:
        """Held-out loss, nats per token: infinite for a run that diverged, None without a result."""
        result = self.find(run)
        if result is None or "refused" in result:
            return None
        return math.inf if result["diverged"] else result["loss"]

    def take_refusal(self, run: Run) -> str | None:
        """Why geo_accel refused a run, or None; the refusal is forgotten, so that a later campaign tries again."""
        result = self.find(run)
        if result is None or "refused" not in result:
            return None
        self._files.forget(self.key(run))
        return result["refused"]
