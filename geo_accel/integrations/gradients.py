# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The user's own model inside what launchers wrap around it, and the wrappers that reduce its gradients."""

import gc
from collections.abc import Iterator

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geo_accel.integrations.session import Session


def bare_model(model: nn.Module) -> nn.Module:
    """The user's own module inside whatever DDP and `torch.compile` put around it.

    Accelerate's `unwrap_model` is not asked: where a compiled module holds a DDP wrapper it takes that out of the
    module it is given, whose forward still goes through it.
    """
    while True:
        # A compiled module's submodule; Accelerate's copy of one with compiled regions keeps the original as a plain
        # attribute.
        inner = vars(model).get("_orig_mod", model._modules.get("_orig_mod"))
        if inner is None and isinstance(model, DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def require_wrapped(model: nn.Module, session: Session) -> None:
    """Raises ValueError for wrappers around `model` that geo_accel does not know, and where a site of several ranks
    has none that reduces its gradients.

    `model` may be bare, wrapped or compiled, and may have been unwrapped.
    """
    bare = bare_model(model)
    name, site = type(bare).__name__, session.topology.site
    if any(word in type(part).__name__ for part in (model, bare) for word in ("FullyShardedDataParallel", "FSDP")):
        raise ValueError(
            f"{name} is not supported by this version of geo_accel: use plain data parallelism (DDP) or DeepSpeed."
        )
    if len(site.ranks) > 1 and not wrappers_of(bare):
        raise ValueError(
            f"the model is a bare {name}, but {site.name} has {len(site.ranks)} ranks whose gradients must be "
            "reduced: wrap it in DDP (accelerator.prepare does)."
        )


def wrappers_of(bare: nn.Module) -> list[DistributedDataParallel]:
    """Every live DDP wrapper that reduces one of the module's parameters.

    The collector's list is asked, because some are in no module tree: a compiled module's code alone holds the one
    that `unwrap_model` took out of it.
    """
    parameters = {id(parameter) for parameter in bare.parameters()}

    return [
        wrapper
        for wrapper in _live_wrappers()
        if any(id(parameter) in parameters for parameter in wrapper.parameters())
    ]


def _live_wrappers() -> Iterator[DistributedDataParallel]:
    gc.collect()  # not those of an earlier training that nobody holds any more
    found = (one for one in gc.get_objects() if issubclass(type(one), DistributedDataParallel))
    return (wrapper for wrapper in found if "reducer" in vars(wrapper))  # not those whose constructor failed
