# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Data across sites: who reads what, without a word over the WAN."""

from typing import Any

from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher
from accelerate.utils import synchronize_rng_states
from torch.utils.data import DataLoader

from geo_accel.integrations.session import ConfigSource, find_sites
from geo_accel.topology import Topology


def sample_order_is_agreed(loader: Any) -> None:
    """Agrees on the sampling order of a data loader once, now, instead of at every epoch.

    Accelerate broadcasts generator states over all ranks when an epoch begins, which would cross the WAN (and would
    hang sites whose private data make epochs of different lengths). Generators that start equal stay equal. Raises
    ValueError for loaders that have rank 0 read for everyone.
    """
    if isinstance(loader, DataLoaderDispatcher):
        raise ValueError(
            "this dataloader has one process read for all and send every batch over the WAN: set "
            "dispatch_batches=False (DataLoaderConfiguration, or accelerator_config in TrainingArguments)."
        )
    rng_types = getattr(loader, "rng_types", None)
    if rng_types:
        synchronize_rng_states(rng_types, loader.synchronized_generator)
        loader.rng_types = None


def shard_in_site(loader: DataLoader, config: ConfigSource = None) -> DataLoader:
    """Makes a prepared `loader` over site-private data deal its batches to the ranks of this site only.

    Collective. The loader is changed in place and returned. Sites of unlike amounts of data have epochs of unlike
    lengths: train for a number of steps, the same everywhere. Raises ValueError for iterable data sets, which the
    data set itself has to split.
    """
    sites = find_sites(config)
    return loader if sites is None else deal_in_site(loader, sites.topology)


def deal_in_site(loader: DataLoader, topology: Topology) -> DataLoader:
    """`shard_in_site` for sites that are known already."""
    sampler = loader.batch_sampler
    if not isinstance(sampler, BatchSamplerShard):
        raise ValueError(
            f"site-private data needs a prepared map-style dataloader, not {type(loader).__name__} with "
            f"{type(sampler).__name__}: split an iterable data set by rank inside the site yourself."
        )
    sampler.num_processes = len(topology.site.ranks)
    sampler.process_index = topology.local_index
    return loader
