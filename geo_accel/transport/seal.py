# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Whether a payload is what was sent: its length and checksum travel behind it. What is not is never averaged in."""

import zlib
from collections.abc import Iterable, Mapping

import torch

from geo_accel.transport.identity import Header, Message


def headers_for(
    parties: Iterable[int], sends: Mapping[int, torch.Tensor], message: Message, *, seals: bool = True
) -> dict[int, Header]:
    """By party, what is told behind what `sends` holds for it. A tensor that goes to several is summed once.

    Without `seals` none is: checksums are 0.
    """
    different = {id(tensor): tensor for tensor in sends.values()}
    checksums = {key: checksum_of(tensor) if seals else 0 for key, tensor in different.items()}
    about = {peer: (tensor.nbytes, checksums[id(tensor)]) for peer, tensor in sends.items()}
    headers = {}
    for peer in parties:
        nbytes, checksum = about.get(peer, (0, 0))
        headers[peer] = Header(identity=message.identity, wishes=message.wishes, nbytes=nbytes, checksum=checksum)
    return headers


def checksum_of(payload: torch.Tensor) -> int:
    """CRC-32 of a flat CPU tensor's bytes."""
    # Some gigabytes per second: little beside encoding, and nothing beside a WAN.
    return zlib.crc32(payload.numpy().data)


def wrong_length(payload: torch.Tensor, header: Header) -> str | None:
    """What is wrong with the length that `header` tells of a payload that goes into `payload`; None where nothing is.

    To be asked before the payload has arrived: one of another length never will.
    """
    if header.nbytes != payload.nbytes:
        return f"{header.nbytes} bytes were sent where {payload.nbytes} were expected"
    return None


def damage(payload: torch.Tensor, header: Header) -> str | None:
    """What is wrong with the bytes of a payload that arrived; None where nothing is."""
    if header.checksum != checksum_of(payload):
        return f"the checksum of its {header.nbytes} bytes is wrong"
    return None
