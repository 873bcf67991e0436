# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Saving and restoring what a checkpoint of the model does not hold.

After a flush anchors equal the weights, so they are not written again. What is left: the position in the plan, the
outer optimizer's state (per rank), and everything that is local to a site, above all its optimizer's state.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from geo_accel.plan.plan import Plan
from geo_accel.profile.document import write_whole
from geo_accel.profile.profile import Profile
from geo_accel.sync.engine import Engine

FOLDER = "geo_accel"
VERSION = 2


def save(engine: Engine, folder: str | os.PathLike, site_state: Mapping[str, Any], writes_site: bool) -> None:
    """Writes this rank's sync state into `folder`/geo_accel. Collective: flushes first.

    `site_state` (state dicts by name) is written once per machine, by ranks with `writes_site`. Every file is written
    under a temporary name and renamed, the JSON that names the others last: a crash leaves the previous state whole.
    """
    engine.flush()
    target = Path(folder) / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    stem = f"rank-{engine.topology.rank}"
    record: dict[str, Any] = {
        "version": VERSION,
        "step": engine.step_count,
        "adopted": engine.adopted,
        "plan": json.loads(engine.plan.to_json()) if engine.plan else None,
        "profile": json.loads(engine.profile.to_json()) if engine.profile else None,
        "config": engine.config.fingerprint(),
        "sites": [[site.name, list(site.ranks)] for site in engine.topology.sites],
        "weights": engine.masters.checksums(),
        "outer": None,
        "site_state": f"{engine.topology.site.name}.step-{engine.step_count}.pt",
    }
    if engine.outer_state is not None:
        record["outer"] = f"{stem}.step-{engine.step_count}.outer.safetensors"
        write_whole(target / record["outer"], lambda path: save_file({"outer": engine.outer_state}, path))
    if writes_site:
        write_whole(target / record["site_state"], lambda path: torch.save(dict(site_state), path))
    write_whole(target / f"{stem}.json", lambda path: path.write_text(json.dumps(record, indent=1)))
    _forget_older(target, keep=engine.step_count, stems=[stem] + ([engine.topology.site.name] if writes_site else []))


def load(engine: Engine, folder: str | os.PathLike) -> Mapping[str, Any] | None:
    """Restores the state that `save` wrote, after the weights have been loaded. Collective.

    Returns this site's `site_state`, or None where no rank has a sync state (a checkpoint made without geo_accel):
    then synchronisation starts afresh from the loaded weights. Raises ValueError, on every rank, for a state that is
    incomplete, of other sites, or of other weights.
    """
    target = Path(folder) / FOLDER
    record, problem = _read(engine, target)
    answers = engine.control.gather(
        "comparing checkpoints", {"step": record["step"] if record else None, "problem": problem}
    )
    for rank, answer in enumerate(answers):
        if answer["problem"]:
            raise ValueError(f"checkpoint {folder}: rank {rank}: {answer['problem']}")
    steps = {answer["step"] for answer in answers}
    if len(steps) > 1:
        listing = ", ".join(f"rank {rank}: {answer['step']}" for rank, answer in enumerate(answers))
        raise ValueError(
            f"checkpoint {folder} is not of one step on all ranks ({listing}; None: no state): was saving cut off? "
            "Resume from an earlier checkpoint."
        )
    if record is None:
        engine.restore(step=engine.step_count, adopted=engine.adopted, plan=None, profile=None, outer_state=None)
        return None
    same_config = record["config"] == engine.config.fingerprint()
    engine.restore(
        step=record["step"],
        adopted=record["adopted"],
        plan=Plan.from_json(json.dumps(record["plan"])) if record["plan"] and same_config else None,
        profile=Profile.from_json(json.dumps(record["profile"])) if record["profile"] else None,
        outer_state=load_file(target / record["outer"])["outer"] if record["outer"] else None,
    )
    return torch.load(target / record["site_state"], map_location="cpu", weights_only=True)


def _read(engine: Engine, target: Path) -> tuple[dict | None, str | None]:
    """This rank's record, or what is wrong with it."""
    path = target / f"rank-{engine.topology.rank}.json"
    if not path.exists():
        return None, None
    try:
        record = json.loads(path.read_text())
        version = record["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{path.name} is not readable ({error})."
    if version != VERSION:
        return None, f"{path.name} has version {version}, this geo_accel reads {VERSION}."
    sites = [[site.name, list(site.ranks)] for site in engine.topology.sites]
    if record["sites"] != sites:
        return None, f"it was saved by the sites {record['sites']}, this run has {sites}."
    missing = [name for name in (record["site_state"], record["outer"]) if name and not (target / name).exists()]
    if missing:
        return None, f"{missing[0]} is missing; was the checkpoint copied whole?"
    weights = engine.masters.checksums()
    changed = [name for name in weights if record["weights"].get(name) != weights[name]]
    if changed:
        return (
            None,
            f"the weights of {changed[-1]} are not those of step {record['step']}; the files do not belong together.",
        )
    return record, None


def _forget_older(target: Path, keep: int, stems: list[str]) -> None:
    for stem in stems:
        for path in target.glob(f"{stem}.step-*"):
            if not path.name.startswith(f"{stem}.step-{keep}."):
                path.unlink(missing_ok=True)
