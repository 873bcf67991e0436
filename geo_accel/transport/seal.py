# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A payload's seal: its length and checksum, which travel behind it. What does not match is never averaged in."""

import zlib

import torch

SEAL_BYTES = 16


def seal_of(payload: torch.Tensor) -> torch.Tensor:
    """Length in bytes and CRC-32 of a flat CPU tensor, as two int64."""
    # Some gigabytes per second: little beside encoding, and nothing beside a WAN.
    return torch.tensor([_nbytes(payload), zlib.crc32(payload.numpy())], dtype=torch.int64)


def damage(payload: torch.Tensor, seal: torch.Tensor) -> str | None:
    """What is wrong with a payload that came with `seal`; None where nothing is."""
    length, checksum = seal.tolist()
    if length != _nbytes(payload):
        return f"{length} bytes were sent where {_nbytes(payload)} were expected"
    if checksum != zlib.crc32(payload.numpy()):
        return f"the checksum of its {length} bytes is wrong"
    return None


def _nbytes(payload: torch.Tensor) -> int:
    return payload.numel() * payload.element_size()
