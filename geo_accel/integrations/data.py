# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Data across sites: who reads what, without a word over the WAN."""

from typing import Any
from weakref import WeakSet

import torch
from accelerate.data_loader import (
    BatchSamplerShard,
    DataLoaderDispatcher,
    IterableDatasetShard,
    SeedableRandomSampler,
    get_sampler,
)
from accelerate.utils import synchronize_rng_states
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from geo_accel.integrations.session import ConfigSource, Session, find_sites, of_jobs
from geo_accel.topology import Topology

_settled: "WeakSet[DataLoader]" = WeakSet()
"""Loaders of which the script has said whether they are dealt over the sites."""
_dealt: "WeakSet[IterableDatasetShard]" = WeakSet()
"""Streams that are dealt over the sites already: several GeoSyncs see one loader."""


def sample_order_is_agreed(loader: Any, session: Session) -> None:
    """Agrees on the sampling order of a data loader once, now. Generators that start equal stay equal. Collective.

    In one job over all sites Accelerate broadcasts generator states over all ranks when an epoch begins, which would
    cross the WAN (and would hang sites whose private data make epochs of different lengths): it does so no more.
    Raises ValueError there for loaders that have rank 0 read for everyone.
    """
    if not session.one_world:
        _agree_on_order(loader, session)
        return
    if isinstance(loader, DataLoaderDispatcher):
        raise ValueError(
            "this dataloader has one process read for all and send every batch over the WAN: set "
            "dispatch_batches=False (DataLoaderConfiguration, or accelerator_config in TrainingArguments)."
        )
    rng_types = getattr(loader, "rng_types", None)
    if rng_types:
        synchronize_rng_states(rng_types, loader.synchronized_generator)
        loader.rng_types = None


def _agree_on_order(loader: Any, session: Session) -> None:
    """The first rank's generator for all: each job has drawn its own."""
    sampler = get_sampler(loader)
    if isinstance(sampler, RandomSampler) and sampler.generator is None:
        # It would draw from torch's own generator, which each site uses otherwise too.
        sampler.generator = torch.Generator().manual_seed(
            int(torch.empty((), dtype=torch.int64, device="cpu").random_())
        )
    generator = getattr(sampler, "generator", None)

    def own() -> dict[str, Any]:
        state = None if generator is None else bytes(generator.get_state().tolist()).hex()
        return {"state": state, "seed": getattr(sampler, "initial_seed", None)}

    told = session.control.broadcast("agreeing on the order of samples", own)
    if generator is not None and told["state"] is not None:
        generator.set_state(torch.tensor(list(bytes.fromhex(told["state"])), dtype=torch.uint8, device="cpu"))
    if told["seed"] is not None and isinstance(sampler, SeedableRandomSampler):
        sampler.initial_seed = told["seed"]


def is_shuffled(loader: DataLoader) -> bool:
    """Whether a loader draws its samples in an order of its own, as those for training do; streams count too."""
    return isinstance(loader.dataset, IterableDataset) or isinstance(get_sampler(loader), RandomSampler)


def is_settled(loader: DataLoader) -> bool:
    """Whether a loader was given to `shard_over_sites` or `shard_in_site`."""
    return loader in _settled


def shard_over_sites(loader: DataLoader, config: ConfigSource = None) -> DataLoader:
    """Makes a `loader` of a job that is one site read this rank's share over the ranks of all sites.

    GeoSync and `plug_into` do that to loaders that shuffle. Collective. The loader is changed in place and returned;
    with one job over all sites, which Accelerate deals over by itself, and in a single job it stays as it is.
    """
    session = of_jobs(config)
    if session is not None:
        _settled.add(loader)
        deal_over_sites(loader, session)
        _agree_on_order(loader, session)
    return loader


def deal_over_sites(loader: DataLoader, session: Session, even_batches: bool = True) -> None:
    """`shard_over_sites` for a session, without the order. With `even_batches` the last batches are filled up from the
    first samples, so that all ranks make as many steps."""
    topology = session.topology
    if isinstance(loader, DataLoaderDispatcher):
        raise ValueError(
            "this dataloader has one process read for all of its site: set dispatch_batches=False "
            "(DataLoaderConfiguration, or accelerator_config in TrainingArguments), so that sites can share the data."
        )
    # Accelerate's loaders hold the one that reads. It refuses another sampler once it is made; but whoever holds the
    # loader goes on using the same object.
    reading = getattr(loader, "base_dataloader", loader)
    if isinstance(reading.dataset, IterableDataset):
        if reading.dataset in _dealt:
            return
        # What a rank of the site would read is one stream already: every site takes its part of each.
        stream = IterableDatasetShard(
            reading.dataset,
            batch_size=reading.batch_size or 1,
            drop_last=reading.drop_last,
            num_processes=len(topology.sites),
            process_index=topology.site_index,
        )
        _dealt.add(stream)
        object.__setattr__(reading, "dataset", stream)
        return
    name = "sampler" if isinstance(reading.sampler, BatchSampler) else "batch_sampler"
    sampler = getattr(reading, name)
    if isinstance(sampler, BatchSamplerShard):
        sampler.num_processes, sampler.process_index = topology.world_size, topology.rank
        return
    shard = BatchSamplerShard(
        sampler, num_processes=topology.world_size, process_index=topology.rank, even_batches=even_batches
    )
    inner = get_sampler(reading)
    if inner is not None:
        shard.sampler = inner
    object.__setattr__(reading, name, shard)


def shard_in_site(loader: DataLoader, config: ConfigSource = None) -> DataLoader:
    """Makes a prepared `loader` over site-private data deal its batches to the ranks of this site only.

    Collective. The loader is changed in place and returned. Sites of unlike amounts of data have epochs of unlike
    lengths: train for a number of steps, the same everywhere. Raises ValueError for iterable data sets, which the
    data set itself has to split.
    """
    if of_jobs(config) is not None:
        _settled.add(loader)  # a job is a site, and its launcher deals inside it
        return loader
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
