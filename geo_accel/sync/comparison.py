# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Whether all sites hold the same after a flush: one checksum of everything each, and more only where they differ."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from geo_accel.rounds.exact_mean import Swap
from geo_accel.sites.inside import InsideSite
from geo_accel.sync.rest import LACKING, Entry
from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.units import checksum

_ROW = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """What differs between sites, the same on all ranks."""

    kinds: bool
    """Names, shapes or types of what they hold besides the weights; then nothing else is known about that."""
    weights: bool
    odd: tuple[bool, ...] = ()
    """By entry, whether its values differ."""
    lacking: tuple[bool, ...] = ()
    """By entry, whether some site has none."""


def compare(
    transport: Transport,
    inside: InsideSite,
    swap: Swap,
    entries: Sequence[Entry],
    prints: Sequence[int],
    weights: int,
) -> Verdict:
    """Background thread; collective. `weights` is a checksum of what this rank carries, `prints` one per entry.

    One message of 24 bytes to each peer of the site's first rank, and where entries differ one of 8 bytes for each of
    them; inside a site its first rank's entries count.
    """
    topology = transport.topology
    if topology.slices > 1:  # each rank carries weights of its own, all of which count
        rows = torch.zeros(topology.slices, 1, dtype=torch.int64, device="cpu")
        inside.share(rows, torch.tensor([weights], dtype=torch.int64, device="cpu"))
        weights = checksum([rows])
    answer = torch.zeros(2 + 2 * len(entries), dtype=torch.int64, device="cpu")
    if topology.local_index == 0:
        here = torch.tensor(prints, dtype=torch.int64, device="cpu")
        kinds = zlib.crc32(json.dumps([[entry.name, entry.shape] for entry in entries]).encode())
        everything = torch.tensor([kinds, weights, checksum([here])], dtype=torch.int64, device="cpu")
        heard = _exchange(swap, topology, transport.peers, everything)
        differs = (heard != everything).any(0)
        answer[:2] = differs[:2]
        if differs[2] and not differs[0]:
            heard = _exchange(swap, topology, transport.peers, here)
            answer[2 : 2 + len(entries)] = (heard != here).any(0)
            answer[2 + len(entries) :] = (heard == LACKING).any(0)
    inside.broadcast(answer)
    kinds, weights, *rest = map(bool, answer.tolist())
    return Verdict(kinds, weights, tuple(rest[: len(entries)]), tuple(rest[len(entries) :]))


def _exchange(swap: Swap, topology: Topology, peers: Sequence[int], mine: torch.Tensor) -> torch.Tensor:
    """What all peers say, by rows; all say as much."""
    rows = mine.repeat(len(peers), 1)
    others = {peer: rows[i] for i, peer in enumerate(peers) if peer != topology.rank}
    swap(dict.fromkeys(others, mine), others)
    return rows


def quick_checksum(values: torch.Tensor) -> int:
    """Of flat fp32 on the CPU, at the speed of its memory: CRC-32 of what the bits of every 4096 values add up to.

    It misses nothing but values that have changed places among such 4096, which averages of the same never do. Only
    values that begin at places of the same parity in their storage are comparable, as peers' vectors do.
    """
    first = values.storage_offset() % 2  # pairs are read as one number, from an even place on
    rows = (values.numel() - first) // _ROW
    if rows <= 0:
        return checksum([values])
    stop = first + rows * _ROW
    whole = values[first:stop].view(torch.int64).view(rows, _ROW // 2)
    return checksum([values[:first], whole.sum(1), values[stop:]])


def first_difference(a: dict, b: dict) -> str:
    """The first name, in the order of `a` and then `b`, under which they do not hold the same."""
    return next(name for name in [*a, *b] if a.get(name) != b.get(name))
