# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Saving and restoring what a checkpoint of the model does not hold.

After a flush anchors equal the weights, so they are not written again. What is left: the position in the plan, the
outer optimizer's state (per rank), and everything that is local to a site, above all its optimizer's state.

`SITE.PLACE.json` is what one rank continues with, the one at that place of its site; it is written last, and knows the
other files by size and checksum.
"""

import json
import os
import re
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from geo_accel.plan.members import Members
from geo_accel.plan.plan import Plan
from geo_accel.profile.profile import Profile
from geo_accel.sync.engine import Engine
from geo_accel.sync.every_rank import on_every_rank
from geo_accel.sync.handshake import counterpart
from geo_accel.sync.state_files import (
    Mark,
    read_objects,
    read_record,
    read_tensor,
    write_objects,
    write_record,
    write_tensor,
)
from geo_accel.topology import Topology

FOLDER = "geo_accel"
VERSION = 4
_RECORD, _FORMER_RECORD = re.compile(r".+\.\d+\.json"), re.compile(r"rank-\d+\.json")


def record_name(topology: Topology) -> str:
    """The file of a sync state that one rank continues with."""
    return f"{topology.own_name}.json"


def save(
    engine: Engine,
    folder: str | os.PathLike,
    site_state: Mapping[str, Any],
    writes_site: bool,
    name: str = FOLDER,
) -> None:
    """Writes this rank's sync state into `folder`/`name`. Collective: flushes first.

    `site_state` (state dicts by name) is written once per machine, by ranks with `writes_site`. Every file is written
    under a temporary name and renamed, the JSON that names the others last: a crash leaves the previous state whole.
    Raises OSError, and ValueError for a state that could not be read back, on every rank alike and in one line: then
    nothing was saved, and the previous state is whole.
    """
    engine.flush()
    target, step, topology = Path(folder) / name, engine.step_count, engine.topology
    site, stem = topology.site.name, topology.own_name
    velocity = engine.outer_state
    outer = f"{stem}.step-{step}.outer.safetensors"
    state = f"{site}.step-{step}.pt"

    def write_files() -> dict[str, Mark | None]:
        target.mkdir(parents=True, exist_ok=True)
        content = {"site": site, "step": step, "state": dict(site_state)}
        return {
            "outer": None if velocity is None else write_tensor(target / outer, "outer", velocity),
            "state": write_objects(target / state, content) if writes_site else None,
        }

    written = on_every_rank(engine.control, f"saving {target}", write_files)
    marks: dict[str, list[Mark]] = {}
    for rank, one in enumerate(written):
        if one["state"] is not None:
            # Machines of one site may share a disk, and need not write the same bytes: any of them will do.
            marks.setdefault(f"{topology.site_of(rank).name}.step-{step}.pt", []).append(one["state"])
    assert state in marks, f"no rank writes {site}'s files"
    own = written[topology.rank]["outer"]
    if own is not None:
        marks[outer] = [own]
    record = {
        "version": VERSION,
        "site": site,
        "place": topology.local_index,
        "step": step,
        "adopted": engine.adopted,
        "plan": json.loads(engine.plan.to_json()) if engine.plan else None,
        "profile": json.loads(engine.planning.profile.to_json()) if engine.planning.profile else None,
        "config": engine.config.fingerprint(),
        "sites": _sites(topology),
        "weights": engine.masters.checksums(),
        "outer": None if own is None else outer,
        "site_state": state,
        "marks": marks,
    }
    on_every_rank(engine.control, f"saving {target}", lambda: write_record(target / record_name(topology), record))
    _forget_older(target, keep=step, stems=[stem] + ([site] if writes_site else []))


def load(engine: Engine, folder: str | os.PathLike, name: str = FOLDER) -> Mapping[str, Any] | None:
    """Restores the state that `save` wrote, after the weights have been loaded. Collective.

    Returns this site's `site_state`, or None where no rank has a sync state (a checkpoint made without geo_accel):
    then synchronisation starts afresh from the loaded weights. Raises ValueError, on every rank, for a state that is
    incomplete, damaged, of other sites, or of other weights.
    """
    target = Path(folder) / name
    found: dict[str, Any] = {}

    def read() -> dict[str, Any]:
        found.update(_read(engine, target))
        return {"step": found.get("step"), "weights": None if found else engine.masters.checksums()}

    answers = on_every_rank(engine.control, f"checkpoint {target}", read)
    if len({answer["step"] for answer in answers}) > 1:
        listing = ", ".join(f"{engine.control.name_of(rank)}: {answer['step']}" for rank, answer in enumerate(answers))
        raise ValueError(
            f"checkpoint {target} is not of one step on all ranks ({listing}; None: no state): was saving cut off, or "
            f"copied in part? Resume from an earlier checkpoint. {_afresh(target)}"
        )
    if not found:
        _require_same_weights(engine, folder, [answer["weights"] for answer in answers])
        engine.restore(step=engine.step_count, adopted=engine.adopted, plan=None, profile=None, outer_state=None)
        return None
    engine.restore(**{key: found[key] for key in ("step", "adopted", "plan", "profile", "outer_state")})
    return found["site_state"]


def _read(engine: Engine, target: Path) -> dict[str, Any]:
    """All that this rank goes on with; empty where there is nothing. ValueError says what is wrong with it."""
    topology, path = engine.topology, target / record_name(engine.topology)
    there = sorted(target.glob("*.json"))
    # Whoever finds nothing of its own looks at another's: was this saved by other sites?
    first = path if path.exists() else next((one for one in there if _RECORD.fullmatch(one.name)), None)
    if first is None:
        _refuse_former(path, there)
        return {}
    try:
        record = read_record(first, VERSION)
    except ValueError as error:
        raise ValueError(f"{error} {_afresh(target)}") from error
    if record["sites"] != _sites(topology):
        raise ValueError(
            f"it was saved by the sites {_listing(record['sites'])}; this run has {_listing(_sites(topology))}. "
            f"Resume with as many ranks on the same sites. {_afresh(target)}"
        )
    if first != path:
        return {}
    if (record["site"], record["place"]) != (topology.site.name, topology.local_index):
        raise ValueError(
            f"{path.name} is {record['site']}.{record['place']}.json, renamed: were files exchanged? Put each back "
            "under its own name."
        )
    state = read_objects(target / record["site_state"], record["marks"])
    site = topology.site.name
    if state["site"] != site or state["step"] != record["step"]:
        raise ValueError(f"{record['site_state']} is of {state['site']} at step {state['step']}, not of {site}.")
    outer = read_tensor(target / record["outer"], "outer", record["marks"]) if record["outer"] else None
    weights = engine.masters.checksums()
    changed = [unit for unit in weights if record["weights"].get(unit) != weights[unit]]
    if changed:
        raise ValueError(
            f"the weights of {changed[-1]} are not those of step {record['step']}; the files do not belong together."
        )
    same_config = record["config"] == engine.config.fingerprint()
    return {
        "step": record["step"],
        "adopted": record["adopted"],
        "plan": _plan(record["plan"], topology) if record["plan"] and same_config else None,
        "profile": Profile.from_json(json.dumps(record["profile"])) if record["profile"] else None,
        "outer_state": outer,
        "site_state": state["state"],
    }


def _require_same_weights(engine: Engine, folder: str | os.PathLike, weights: list[dict[str, int]]) -> None:
    """Where no sync state says which weights belong to it, at least all sites must have loaded the same."""
    for rank, held in enumerate(weights):
        first = counterpart(engine.topology, engine.masters, rank)
        unlike = [unit for unit in held if held[unit] != weights[first].get(unit)]
        if unlike:
            raise ValueError(
                f"checkpoint {folder} holds no sync state, and {engine.control.name_of(first)} and "
                f"{engine.control.name_of(rank)} have other weights of {unlike[-1]} after loading it: give every site "
                "the same files."
            )


def _plan(said: dict, topology: Topology) -> Plan:
    return Plan.from_json(json.dumps(said)).for_members(Members.of(topology))


def _refuse_former(path: Path, there: list[Path]) -> None:
    """What was saved before files were named by site and place is not taken for nothing."""
    former = next((one.name for one in there if _FORMER_RECORD.fullmatch(one.name)), None)
    if former is not None:
        raise ValueError(
            f"{former} is of an earlier geo_accel, which named files by rank; this one reads {path.name}. "
            f"{_afresh(path.parent)}"
        )


def _sites(topology: Topology) -> dict[str, int]:
    """How many ranks each has; in which order they come is no matter."""
    return {site.name: len(site.ranks) for site in topology.sites}


def _listing(sites: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({ranks} rank{'s' if ranks > 1 else ''})" for name, ranks in sites.items())


def _afresh(target: Path) -> str:
    return f"To start afresh from its weights, move the folder {target} away on every machine."


def _forget_older(target: Path, keep: int, stems: list[str]) -> None:
    for stem in stems:
        for path in target.glob(f"{escape(stem)}.step-*"):
            if not path.name.startswith(f"{stem}.step-{keep}."):
                path.unlink(missing_ok=True)
