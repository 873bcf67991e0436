# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The seam into torch's gloo: a process group that listens where it is told.

torch reads the interface from the environment whenever a gloo group is made, and takes no argument for it. So the
variable holds ours while the group is made, and is as before afterwards: other groups are not ours to direct.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch.distributed as dist

from geo_accel.config.names import AUTO
from geo_accel.transport.privacy import INTERFACE_VARIABLE
from geo_accel.transport.store import seconds


def new_group(
    ranks: Sequence[int], deadline_s: float, interface: str = AUTO, description: str | None = None
) -> dist.ProcessGroup | None:
    """`torch.distributed.new_group` over gloo, listening at `interface`; AUTO leaves that to the environment.

    None on a rank that is not in it. Collective over the world. `deadline_s` bounds connecting and every wait
    afterwards (seconds). Raises RuntimeError, as gloo does, for an interface that is not there and for ranks that
    cannot be reached.
    """
    with _listening_at(interface):
        group = dist.new_group(ranks, backend="gloo", timeout=seconds(deadline_s), group_desc=description)
    return group if isinstance(group, dist.ProcessGroup) else None


@contextmanager
def _listening_at(interface: str) -> Generator[None]:
    before = os.environ.get(INTERFACE_VARIABLE)
    if interface != AUTO:
        os.environ[INTERFACE_VARIABLE] = interface
    try:
        yield
    finally:
        if interface != AUTO:
            if before is None:
                os.environ.pop(INTERFACE_VARIABLE, None)
            else:
                os.environ[INTERFACE_VARIABLE] = before
