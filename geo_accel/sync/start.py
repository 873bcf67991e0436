# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where only one site could load the model: its weights for all."""

import logging

import torch

from geo_accel.masters import Masters
from geo_accel.plan.plan import Piece
from geo_accel.transport.base import Transport
from geo_accel.transport.identity import Identity, Message
from geo_accel.transport.store import ControlPlane

logger = logging.getLogger("geo_accel")


def start_from_first_site(control: ControlPlane, transport: Transport, masters: Masters) -> None:
    """Gives every site the first one's weights, where any differ: each byte crosses once per site. Collective.

    For masters of which every rank holds a share. Raises SiteLostError for a site that is lost meanwhile.
    """
    topology = transport.topology
    held = control.gather("comparing weights", masters.checksums())
    # All ranks know of all, so all of a site go the same way: what follows is collective inside it.
    groups = [topology.peer_group(i) for i in range(topology.slices)]
    if all(held[rank] == held[group[0]] for group in groups for rank in group):
        return
    first, *others = transport.peers
    logger.info("all sites take %s's weights, which differ from theirs", topology.sites[0].name)
    for unit in range(len(masters.units)):
        message = Message(Identity(kind="weights", number=unit))
        selection = masters.select([Piece(unit)])
        if topology.rank == first:
            values = torch.zeros(selection.length, dtype=torch.float32, device=masters.device)
            masters.read(selection, values)
            transport.swap(dict.fromkeys(others, values.cpu()), {}, message)
        else:
            values = torch.zeros(selection.length, dtype=torch.float32, device="cpu")
            transport.swap({}, {first: values}, message)
            masters.assign(selection, values.to(masters.device).view(1, -1))
            masters.written(selection)
