# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A folder of results, one JSON file each."""

import json
import os
from pathlib import Path


class ResultFiles:
    """Reads each file once. Files appear whole: they are written under another name first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._read: dict[str, dict] = {}

    def find(self, key: str) -> dict | None:
        """The result with that key; None where there is none."""
        if key not in self._read:
            try:
                self._read[key] = json.loads((self.folder / f"{key}.json").read_text())
            except FileNotFoundError:
                return None
        return self._read[key]

    def forget(self, key: str) -> None:
        """Removes a result that there is."""
        self._read.pop(key, None)
        (self.folder / f"{key}.json").unlink()


def save_result(folder: Path, key: str, result: dict) -> None:
    """Writes a result under another name and renames it."""
    temporary = folder / f".{key}.{os.getpid()}"
    temporary.write_text(json.dumps(result) + "\n")
    temporary.rename(folder / f"{key}.json")
