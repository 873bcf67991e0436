# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where figures come from: said in every file of results."""

import hashlib
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import geo_accel
from benchmarks.kit.environment import machine
from benchmarks.loss.setting import LARGE_RATES, RATES, Setting


def provenance(setting: Setting, seeds: int, command: str) -> dict:
    """Date, machine, versions, command, and what was trained."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(),
        "model": f"GPT-2, {setting.layers} layers of width {setting.width}, bytes",
        "steps": setting.steps,
        "seeds": seeds,
        "setting": asdict(setting),
        "learning_rates": {**RATES, "large": LARGE_RATES},
    }


def code_digest() -> str:
    """A short hash over geo_accel's source: no part of a run's key, but every result says which code it is of."""
    folder = Path(geo_accel.__file__).parent
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:12]
