# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which jobs there are, and what is compared on each."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.loss.cases import Case, large_parts, parts, quick_parts
from benchmarks.loss.material import Material, make_material
from benchmarks.loss.setting import FULL, LARGE, QUICK, SEEDS, Setting
from benchmarks.loss.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A job and what is compared on it."""

    setting: Setting
    seeds: int
    parts: dict[str, list[Case]]
    folder: str
    """For its table and pictures, below the results'."""

    def store(self, results: Path, console: Console, device: str = "cpu") -> tuple[Store, Path]:
        """Its runs, and its material, which is made, on `device`, unless it is there."""
        steps = self.setting.pretraining_steps
        with console.status("texts and pretrained weights") as status:
            material = make_material(
                self.setting,
                results,
                on_step=lambda step: status.update(f"pretraining, step {step} of {steps}"),
                device=device,
            )
        return Store(results / "runs", self.setting, Material.read(material).digests), material


QUICK_STUDY = Study(setting=QUICK, seeds=1, parts=quick_parts(), folder="quick")
SMALL_STUDY = Study(setting=FULL, seeds=SEEDS, parts=parts(), folder="")
LARGE_STUDY = Study(setting=LARGE, seeds=SEEDS, parts=large_parts(), folder="large")
