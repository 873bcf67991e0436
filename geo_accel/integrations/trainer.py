# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Hugging Face Trainer: `plug_into(trainer, config)` before `trainer.train()`, for any subclass."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer

from geo_accel.integrations import trainer_seam as seam
from geo_accel.integrations.data import deal_in_site, deal_over_sites
from geo_accel.integrations.disks import find_disk
from geo_accel.integrations.session import ConfigSource, Session, connect, require_everybody
from geo_accel.integrations.trainer_callback import GeoCallback
from geo_accel.integrations.trainer_saving import Saving
from geo_accel.masters import PlainMasters
from geo_accel.sync.handshake import require_same
from geo_accel.sync.rest import untrained_checksums
from geo_accel.units import find_units

logger = logging.getLogger("geo_accel")


def plug_into(trainer: Trainer, config: ConfigSource = None, data: str = "shared") -> GeoCallback | None:
    """Makes `trainer` train across sites; call it before `trainer.train()`. Collective.

    `data` is "shared" (one data set, dealt to all ranks as usual) or "private" (each site has its own training data,
    dealt inside the site; the shortest site's number of steps is agreed on, and its epochs are the run's). Evaluation
    stays Trainer's own: its data set must be the same everywhere.

    Whatever its callbacks ask for on one site (to save, evaluate or stop) happens on all sites together: at the very
    step where arguments alone decide, else a few steps later. `trainer.save_model` in the midst of training does so
    too. Every site's disk gets whole checkpoints.

    Returns the callback it added, or None where there is nothing to synchronise. Raises ConfigError, ValueError
    (sites that differ, named, before the first step) or SiteLostError (peers that do not come). When a site is lost
    during training, `trainer.train()` writes a checkpoint of this site below `output_dir` and raises SiteLostError
    with the site's name and that folder's.
    """
    if data not in ("shared", "private"):
        raise ValueError(f'data = {data!r}: allowed are "shared" and "private".')
    seam.require_hooks(trainer)
    if trainer.is_deepspeed_enabled:
        from geo_accel.integrations.deepspeed import keep_deepspeed_in_site

        session = keep_deepspeed_in_site(config)
    else:
        session = connect(config)
    if session is None:
        return None
    require_everybody("TrainingArguments", trainer.args.world_size, session.launched, "use_cpu=True")
    # Here, because DDP will copy rank 0's weights to everyone when training begins; DeepSpeed copies inside the site.
    if trainer.model is not None and not trainer.is_deepspeed_enabled:
        masters = PlainMasters(find_units(trainer.model), session.topology)
        others = untrained_checksums(trainer.model, masters.units)
        require_same(session.control, session.topology, session.config, masters, {}, others)
    args = trainer.args
    if session.one_world and args.average_tokens_across_devices:
        # It would gather token counts over the WAN in every step; each rank weighs its own tokens instead.
        args.average_tokens_across_devices = False
    if session.one_world and args.include_num_input_tokens_seen != "no":
        logger.warning("geo_accel: include_num_input_tokens_seen gathers over the WAN in every step; turned off.")
        args.include_num_input_tokens_seen = "no"
    if data == "private":
        _agree_on_steps(trainer, session)
    elif not session.one_world:
        _deal(trainer, lambda loader: deal_over_sites(loader, session))
    disk = find_disk(Path(seam.output_dir(args)), session, args.save_on_each_node)
    saving = Saving(trainer, session, disk)
    callback = GeoCallback(trainer, session, saving)
    trainer.add_callback(callback)
    trainer.callback_handler.call_event = callback.deciding(trainer.callback_handler.call_event)
    seam.on_signals(trainer, callback.save_and_stop)
    trainer.train = callback.surviving(trainer.train)
    trainer.log = callback.with_metrics(trainer.log)
    trainer.evaluate = callback.flushed(trainer.evaluate)
    trainer.predict = callback.flushed(trainer.predict)
    trainer.save_model = saving.agreed(trainer.save_model)
    trainer.push_to_hub = saving.agreed(trainer.push_to_hub)
    trainer._save_checkpoint = saving.whole(trainer._save_checkpoint)
    trainer._determine_best_metric = callback.alike(trainer._determine_best_metric)
    trainer._finalize_training = callback.together(trainer._finalize_training)
    trainer._init_training_state = callback.resuming(trainer._init_training_state)
    trainer.get_batch_samples = callback.counting(trainer.get_batch_samples)
    return callback


def _deal(trainer: Trainer, deal: Callable[[DataLoader], object]) -> None:
    """Has `deal` change every loader of training data that Trainer makes."""
    get_train_dataloader = trainer.get_train_dataloader

    @functools.wraps(get_train_dataloader)
    def dealt(*args: Any, **kwargs: Any) -> DataLoader:
        loader = get_train_dataloader(*args, **kwargs)
        deal(loader)
        return loader

    trainer.get_train_dataloader = dealt


def _agree_on_steps(trainer: Trainer, session: Session) -> None:
    """Shards training data inside the site, and agrees on a number of steps that every site's data covers."""
    if session.one_world:
        _deal(trainer, lambda loader: deal_in_site(loader, session.topology))
    args = trainer.args
    if args.max_steps <= 0:
        per_epoch = max(1, len(trainer.get_train_dataloader()) // args.gradient_accumulation_steps)
        steps = session.control.gather("counting steps", int(per_epoch * args.num_train_epochs))
        args.max_steps = max(1, min(steps))
        logger.info("geo_accel: %d steps, as many as the site with least data has", args.max_steps)
