# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""DeepSpeed: its collectives stay in the site, and rounds act on the fp32 masters of every ZeRO stage."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from accelerate.state import AcceleratorState, is_initialized
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.pipe.engine import PipelineEngine
from transformers.integrations import deepspeed_config

from geo_accel.config import GeoConfig, load_config
from geo_accel.config_file import BLOCK
from geo_accel.integrations import deepspeed_seam as seam
from geo_accel.integrations.session import ConfigSource, Session, connect
from geo_accel.sync import checkpoint
from geo_accel.sync.engine import Engine
from geo_accel.sync.masters import Masters
from geo_accel.sync.start import start_from_first_site
from geo_accel.topology import Topology
from geo_accel.units import Unit


def keep_deepspeed_in_site(config: ConfigSource = None) -> Session | None:
    """From now on every DeepSpeed collective of this process stays in its site. Collective.

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
    block = _take_block()
    config = block if config is None else config
    backend = seam.installed()
    if backend is not None:
        return backend.session if config is None else _with_config(backend.session, load_config(config))
    seam.require_version()
    session = connect(config)
    if session is not None:
        seam.install(seam.GeoBackend(session))
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


def make_engine(model: DeepSpeedEngine, session: Session, **facts: object) -> Engine:
    """geo_accel's engine for a DeepSpeed engine, whose checkpoints include the sync state from now on. Collective.

    Raises ValueError for what cannot be kept in sites: a model that was partitioned over all of them, ZeRO with sites
    of unlike size, pipeline, tensor, sequence and expert parallelism.
    """
    _require_supported(model, session)

    def masters(units: Sequence[Unit], topology: Topology) -> Masters:
        held = seam.masters_of(model, units, topology, session.control)
        if model.zero_optimization_partition_weights():
            # Transformers fills a partitioned model on the job's first rank alone, which only its own site hears.
            start_from_first_site(session.control, session.transport, held)
        return held

    engine = session.engine(model.module, optimizer=getattr(model, "basic_optimizer", None), masters=masters, **facts)
    _join_checkpoints(model, session, engine)
    return engine


class DeepSpeedTraining:
    """A DeepSpeed engine in a user's own loop, with Accelerate or without."""

    def __init__(self, model: DeepSpeedEngine, session: Session) -> None:
        self.session, self.engine, self._model = session, make_engine(model, session), model
        self._steps = model.global_steps

    def stepped(self) -> bool:
        """By DeepSpeed's own count, which has skipped steps too."""
        before, self._steps = self._steps, self._model.global_steps
        return self._steps > before

    def save_alone(self, folder: Path) -> None:
        save_alone(self._model, folder)

    def release(self) -> None:
        for name in ("save_checkpoint", "load_checkpoint"):
            vars(self._model).pop(name, None)


def save_alone(model: DeepSpeedEngine, folder: Path) -> None:
    """DeepSpeed's checkpoint of this site, which every rank of the site calls and no other site has a part in."""
    folder.mkdir(parents=True, exist_ok=True)  # DeepSpeed leaves this to rank 0, who may be the one that is lost
    model.save_checkpoint.__wrapped__(str(folder))


def _take_block() -> dict | None:
    """What stands in the JSON of `accelerate launch` or `--deepspeed`; out of it, as both would resolve its "auto"."""
    plugin = AcceleratorState().deepspeed_plugin if is_initialized() else None
    # Before there is a Trainer, its arguments are all that knows the file.
    config = (plugin.deepspeed_config if plugin is not None else deepspeed_config()) or {}
    return {BLOCK: config.pop(BLOCK)} if BLOCK in config else None


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
    if session.config.sync.mode == "backward":
        raise ValueError('sync.mode "backward" does not go with DeepSpeed and its own masters; use "stream".')
    here = len(session.topology.site.ranks)
    spread = [
        name
        for name, parameter in model.module.named_parameters()
        if dist.get_world_size(getattr(parameter, "ds_process_group", session.site_group)) != here
    ]
    if spread or dist.get_world_size(model.seq_data_parallel_group) != here:
        what = f"parameter {spread[0]} was partitioned" if spread else "the model was prepared"
        raise ValueError(
            f"{what} over all sites: call geo_accel.keep_deepspeed_in_site(config) before accelerator.prepare or "
            "deepspeed.initialize, and with ZeRO-3 before the model is created."
        )


def _join_checkpoints(model: DeepSpeedEngine, session: Session, engine: Engine) -> None:
    """DeepSpeed's own save and load, with the sync state beside, sites kept apart.

    The first site's files lie where DeepSpeed puts them, so that every tool finds a checkpoint as it knows it. The
    names of all sites are the same, so the others' lie in a folder of their own beside the sync state.
    """

    def place(folder: str) -> str:
        if session.topology.site_index == 0:
            return folder
        own = Path(folder, checkpoint.FOLDER, session.topology.site.name)
        own.mkdir(parents=True, exist_ok=True)
        return str(own)

    def saving(save: Callable) -> Callable:
        @functools.wraps(save)
        def wrapped(save_dir, tag=None, *args, save_latest=True, **kwargs):
            engine.flush()
            tag = str(tag if tag is not None else f"global_step{model.global_steps}")
            done = save(place(save_dir), tag, *args, save_latest=save_latest, **kwargs)
            if session.topology.site_index and session.writes_site:
                # DeepSpeed's rank 0 writes this, who is at the first site; and Trainer looks for the tag's folder.
                if save_latest:
                    Path(place(save_dir), "latest").write_text(tag)
                Path(save_dir, tag).mkdir(exist_ok=True)
            checkpoint.save(engine, save_dir, {}, session.writes_site)
            return done

        return wrapped

    def loading(load: Callable) -> Callable:
        @functools.wraps(load)
        def wrapped(load_dir, *args, **kwargs):
            engine.settle()
            loaded = load(place(load_dir), *args, **kwargs)
            checkpoint.load(engine, load_dir)
            return loaded

        return wrapped

    model.save_checkpoint = saving(model.save_checkpoint)
    model.load_checkpoint = loading(model.load_checkpoint)
