# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""DeepSpeed: its collectives stay in the site, and rounds act on the fp32 masters of every ZeRO stage."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.pipe.engine import PipelineEngine

from geo_accel.config import GeoConfig, load_config
from geo_accel.config.names import Mode
from geo_accel.integrations import deepspeed_seam as seam
from geo_accel.integrations.deepspeed_block_seam import unread_block
from geo_accel.integrations.disks import require_own_folder
from geo_accel.integrations.session import ConfigSource, Session, already_joined, connect
from geo_accel.masters import Masters
from geo_accel.sync import checkpoint
from geo_accel.sync.engine import Engine
from geo_accel.sync.every_rank import on_every_rank
from geo_accel.sync.start import start_from_first_site
from geo_accel.topology import Topology
from geo_accel.units import Unit

SITE = "geo_accel_site"
"""In DeepSpeed's client state: whose files they are."""

_loaded_with_sites: "WeakSet[DeepSpeedEngine]" = WeakSet()
"""Engines that were loaded each site its own."""


def keep_deepspeed_in_site(config: ConfigSource = None) -> Session | None:
    """From now on every DeepSpeed collective of this process stays in its site. Collective.

    Where each site is a job of its own they do so anyway: it only connects the sites then.

    Call it once torch.distributed is initialised (`Accelerator()`, `TrainingArguments(...)` and
    `deepspeed.init_distributed()` do that) and before DeepSpeed partitions anything: before `accelerator.prepare` or
    `deepspeed.initialize`, and with ZeRO-3 before the model is created. `plug_into` calls it, which is early enough
    for ZeRO 0 to 2. `config` is as everywhere, a DeepSpeed JSON with a "geo_accel" block for one.

    `config` None is the "geo_accel" block of the DeepSpeed JSON that Accelerate or Trainer was given, if it has one.
    Sites are connected once: a later call returns the same session, with the config that it is given if any.

    Returns None, and leaves DeepSpeed as it is, where there is nothing to synchronise. Raises as `connect` does, and
    ValueError for versions of DeepSpeed that are not supported and for a later call whose sites, link or deadlines are
    others.
    """
    block = unread_block()
    config = block if config is None else config
    joined = already_joined()
    if joined is not None:
        return joined if config is None else connect(config)
    # Only where it was imported can it have been installed.
    backend = sys.modules.get("geo_accel.integrations.one_world.deepspeed_backend")
    if backend is not None and (installed := backend.installed()) is not None:
        return installed.session if config is None else _with_config(installed.session, load_config(config))
    seam.require_version()
    session = connect(config)
    if session is not None and session.one_world:
        from geo_accel.integrations.one_world.deepspeed_backend import GeoBackend, install

        install(GeoBackend(session))
    return session


def _with_config(session: Session, config: GeoConfig) -> Session:
    """The same connections for another training."""
    for key in ("sites", "link", "resilience"):
        if getattr(config, key) != getattr(session.config, key):
            raise ValueError(
                f"geo_accel connected the sites already, with another {key}: {getattr(session.config, key)}; give the "
                "same everywhere."
            )
    return replace(session, config=config)


def make_engine(
    model: DeepSpeedEngine,
    session: Session,
    after_load: Callable[[], object] = lambda: None,
    facts: Mapping[str, object] | None = None,
) -> Engine:
    """geo_accel's engine for a DeepSpeed engine, whose checkpoints include the sync state from now on. Collective.

    `after_load` is called whenever one was loaded.

    Raises ValueError for what cannot be kept in sites: a model that was partitioned over all of them, ZeRO with sites
    of unlike size, pipeline, tensor, sequence and expert parallelism.
    """
    _require_supported(model, session)

    def masters(units: Sequence[Unit], topology: Topology) -> Masters:
        held = seam.masters_of(model, units, topology, session.control, session.site_group)
        if model.zero_optimization_partition_weights():
            # Transformers fills a partitioned model on the job's first rank alone, which only its own site hears.
            start_from_first_site(session.control, session.transport, held)
        return held

    engine = session.engine(
        seam.bare(model), optimizer=getattr(model, "basic_optimizer", None), masters=masters, facts=facts
    )
    join_checkpoints(model, session, engine, after_load)
    return engine


class DeepSpeedTraining:
    """A DeepSpeed engine in a user's own loop, with Accelerate or without."""

    def __init__(self, model: DeepSpeedEngine, session: Session) -> None:
        self.session, self._model = session, model
        if model not in _loaded_with_sites and seam.was_loaded(model):
            raise ValueError(
                "load_checkpoint was called before GeoSync was made, so that every site has the first one's state: "
                "construct GeoSync first, then load."
            )
        self.engine = make_engine(model, session, after_load=self._loaded)
        self._steps = model.global_steps

    def stepped(self) -> bool:
        """By DeepSpeed's own count, which has skipped steps too."""
        before, self._steps = self._steps, self._model.global_steps
        return self._steps > before

    def _loaded(self) -> None:
        _loaded_with_sites.add(self._model)
        self._steps = self._model.global_steps  # what was counted before it was loaded is no step taken

    def save_alone(self, folder: Path) -> bool:
        save_alone(self._model, folder)
        return True

    def release(self) -> None:
        for name in ("save_checkpoint", "load_checkpoint"):
            vars(self._model).pop(name, None)


def save_alone(model: DeepSpeedEngine, folder: Path) -> None:
    """DeepSpeed's checkpoint of this site, which every rank of the site calls and no other site has a part in."""
    folder.mkdir(parents=True, exist_ok=True)  # DeepSpeed leaves this to rank 0, who may be the one that is lost
    vars(model.save_checkpoint)["__wrapped__"](str(folder))


def _require_supported(model: DeepSpeedEngine, session: Session) -> None:
    if isinstance(model, PipelineEngine):
        raise ValueError(seam.NO_PIPELINE)
    sites, stage = session.topology.sites, model.zero_optimization_stage()
    if model.has_moe_layers:
        raise ValueError("mixture-of-experts layers are not supported across sites; use a model without them.")
    if model.mp_world_size > 1 or model.sequence_parallel_size > 1 or model.autotp_size() > 1:
        raise ValueError("tensor and sequence parallelism are not supported across sites; use ZeRO 0 to 3.")
    if stage > 0 and len({len(site.ranks) for site in sites}) > 1:
        sizes = ", ".join(f"{site.name} has {len(site.ranks)} ranks" for site in sites)
        raise ValueError(
            f"ZeRO {stage} needs sites of equal size, because ranks exchange their own partitions: {sizes}. Use as "
            'many ranks on each site, or "stage": 0.'
        )
    if session.config.sync.mode == Mode.BACKWARD:
        raise ValueError('sync.mode "backward" does not go with DeepSpeed and its own masters; use "stream".')
    here = len(session.topology.site.ranks)
    spread = [
        name
        for name, parameter in seam.bare(model).named_parameters()
        if dist.get_world_size(getattr(parameter, "ds_process_group", session.site_group)) != here
    ]
    if spread or dist.get_world_size(model.seq_data_parallel_group) != here:
        what = f"parameter {spread[0]} was partitioned" if spread else "the model was prepared"
        raise ValueError(
            f"{what} over all sites: call geo_accel.keep_deepspeed_in_site(config) before accelerator.prepare or "
            "deepspeed.initialize, and with ZeRO-3 before the model is created."
        )


def join_checkpoints(
    model: DeepSpeedEngine, session: Session, engine: Engine, after_load: Callable[[], object]
) -> None:
    """DeepSpeed's own save and load, with the sync state in the tag's folder, sites kept apart.

    The first site's files lie where DeepSpeed puts them, so that every tool finds a checkpoint as it knows it. The
    names of all sites are the same, so the others' lie in a folder of their own beside.
    """
    site = session.topology.site.name
    # A job has its checkpoints to itself.
    first = session.topology.site_index == 0 or not session.one_world

    def own(folder: str) -> Path:
        return Path(folder) if first else Path(folder, checkpoint.FOLDER, site)

    def saving(save: Callable) -> Callable:
        @functools.wraps(save)
        def wrapped(
            save_dir: str,
            tag: object = None,
            client_state: Mapping[str, object] | None = None,
            save_latest: bool = True,
            *args: object,
            **kwargs: object,
        ) -> object:
            tag = str(tag if tag is not None else f"global_step{model.global_steps}")
            done = None

            def write() -> None:
                nonlocal done
                place = own(save_dir)
                place.mkdir(parents=True, exist_ok=True)
                state = {**(client_state or {}), SITE: site}
                done = save(str(place), tag, state, save_latest, *args, **kwargs)
                if save_latest and not first and session.writes_site:
                    # DeepSpeed's rank 0 writes this, who is at the first site.
                    Path(place, "latest").write_text(tag)

            require_own_folder(save_dir, session)
            engine.flush()
            on_every_rank(session.control, f"saving {save_dir}", write)
            checkpoint.save(engine, Path(save_dir, tag), {}, session.writes_site)
            return done

        return wrapped

    def loading(load: Callable) -> Callable:
        @functools.wraps(load)
        def wrapped(load_dir: str, *args: object, **kwargs: object) -> object:
            loaded: Any = None

            def read() -> str | None:
                nonlocal loaded
                # Another's files only where none were kept apart: a checkpoint of DeepSpeed without geo_accel.
                place = own(load_dir) if own(load_dir).is_dir() else Path(load_dir)
                loaded = load(str(place), *args, **kwargs)
                if loaded[0] is None:
                    return None
                tag = str(Path(loaded[0]).parent.relative_to(place))
                saved_by = (loaded[1] or {}).pop(SITE, None)
                if Path(load_dir, tag, checkpoint.FOLDER).is_dir() and saved_by != site:
                    raise ValueError(
                        f"{place / tag} is {saved_by or 'nobody'}'s, and {site}'s belongs into {own(load_dir) / tag}: "
                        "was the checkpoint copied whole, or were folders exchanged?"
                    )
                return tag

            engine.settle()
            tags = on_every_rank(session.control, f"loading {load_dir}", read)
            if len(set(tags)) > 1:
                listing = ", ".join(f"{session.control.name_of(rank)}: {tag}" for rank, tag in enumerate(tags))
                raise ValueError(f"checkpoint {load_dir} is not the same on all ranks ({listing}; None: nothing).")
            tag = tags[0]
            if tag is None:
                return loaded  # DeepSpeed has said that there is nothing
            checkpoint.load(engine, Path(load_dir, tag))
            after_load()
            return loaded

        return wrapped

    model.save_checkpoint = saving(model.save_checkpoint)
    model.load_checkpoint = loading(model.load_checkpoint)
