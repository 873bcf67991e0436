# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What data parallelism sends in every step stays inside the site: gradients, buffers, batch statistics.

The launcher's wrappers span all ranks, and whoever holds one goes on using the same object: so they are built again in
place, by their own constructor, with the site's process group.
"""

import inspect
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geo_accel.integrations.gradients import bare_model, wrappers_of
from geo_accel.integrations.session import Session
from geo_accel.topology import Topology

# What differs between copies of one wrapper: the modules below it, and which wrapper it was made from.
OWN = ("_modules", "_orig_mod")


def keep_gradients_in_site(model: nn.Module, session: Session) -> None:
    """Makes every DDP wrapper around `model`'s parameters reduce inside the site only, and its SyncBatchNorm too.

    A site of one rank reduces nothing at all. Collective inside the site. Raises ValueError for wrappers that this
    cannot be done with.
    """
    bare = bare_model(model)
    wrappers = wrappers_of(bare)
    if any(wrapper._comm_hooks for wrapper in wrappers):
        raise ValueError(
            "a DDP communication hook is registered, which would reduce over all sites: remove it; gradients stay "
            "inside the site."
        )
    # Copies that Accelerate made for compiled regions share one reducer, and go on sharing it.
    by_reducer: dict[int, list[DistributedDataParallel]] = {}
    for wrapper in wrappers:
        by_reducer.setdefault(id(wrapper.reducer), []).append(wrapper)
    for first, *copies in by_reducer.values():
        _build_again(first, session)
        for copy in copies:
            vars(copy).update({name: part for name, part in vars(first).items() if name not in OWN})
    for module in bare.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.process_group = session.site_group


def refuse_what_else_crosses(accelerator: Accelerator, topology: Topology) -> None:
    """Raises ValueError where `accelerator` prepared a model or an optimizer that reduces over all sites.

    Call it when training has begun and every GeoSync was made. A model that does not train is left to its site.
    """
    for model in accelerator._models:
        for wrapper in wrappers_of(bare_model(model)):
            if not topology.crosses(dist.get_process_group_ranks(wrapper.process_group)):
                continue
            if any(parameter.requires_grad for parameter in wrapper.parameters()):
                raise ValueError(
                    f"another prepared model, a {type(bare_model(model)).__name__}, has no GeoSync, and its gradients "
                    "would be reduced over all sites in every step: construct a GeoSync for it too, before the first "
                    "step; if it does not train, freeze it with requires_grad_(False)."
                )
            wrapper.require_backward_grad_sync = wrapper.broadcast_buffers = False
    for prepared in accelerator._optimizers:
        optimizer = getattr(prepared, "optimizer", prepared)
        for group in vars(optimizer).values():
            if isinstance(group, dist.ProcessGroup) and topology.crosses(dist.get_process_group_ranks(group)):
                raise ValueError(
                    f"{type(optimizer).__name__} spreads its state over all sites and talks to them in every step: "
                    "use one whose state is whole on every rank, or DeepSpeed's ZeRO, which stays in the site."
                )


def _build_again(wrapper: DistributedDataParallel, session: Session) -> None:
    # torch 2.13 renamed broadcast_buffers; the attribute kept its name.
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    renamed: dict[str, Any] = {buffers: wrapper.broadcast_buffers}
    DistributedDataParallel.__init__(
        wrapper,
        wrapper.module,
        device_ids=wrapper.device_ids,
        output_device=wrapper.output_device,
        dim=wrapper.dim,
        process_group=session.site_group,
        bucket_cap_mb=wrapper.bucket_bytes_cap / 2**20,
        find_unused_parameters=wrapper.find_unused_parameters,
        gradient_as_bucket_view=wrapper.gradient_as_bucket_view,
        static_graph=wrapper.static_graph,
        mixed_precision=wrapper.mixed_precision,
        **renamed,
    )
    if len(session.topology.site.ranks) == 1:
        wrapper.require_backward_grad_sync = False
