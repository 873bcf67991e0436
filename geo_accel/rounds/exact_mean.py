# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Values of any type, made the same on all sites: the mean in their own precision, or the first site's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch

# Elements that are sent together: much on any link, little beside a model.
CHUNK = 16 * 1024 * 1024

Swap = Callable[[Mapping[int, torch.Tensor], Mapping[int, torch.Tensor]], None]
"""Sends and receives flat CPU tensors, keyed by peer rank, all at once."""


def chunks(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Stretches of `tensors`, flat and writable, that are of one type and `CHUNK` elements together at most."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        waiting, used = [], 0
        for tensor in tensors:
            for stretch in tensor.view(-1).split(CHUNK) if tensor.dtype == dtype else ():
                if used + stretch.numel() > CHUNK:
                    yield waiting
                    waiting, used = [], 0
                waiting.append(stretch)
                used += stretch.numel()
        if waiting:
            yield waiting


def mean(swap: Swap, peers: Sequence[int], me: int, values: torch.Tensor, coefficients: Sequence[float]) -> None:
    """Sets the flat CPU tensor `values` to its mean over `peers`, of whom this is rank `me`.

    Sums run in the order of peers: in float64 for float64, in fp32 for everything shorter. Everyone averages a share
    and tells it to all, so that all hold the same bits: 2(N-1)/N payloads per site. `coefficients`: what each peer
    counts, in all 1; empty: all alike.
    """
    edges = [values.numel() * i // len(peers) for i in range(len(peers) + 1)]
    shares = {peer: values[lo:hi] for peer, (lo, hi) in zip(peers, pairwise(edges), strict=True)}
    heard = {peer: torch.empty_like(shares[me]) for peer in peers if peer != me}
    _swap_bytes(swap, {peer: share for peer, share in shares.items() if peer != me}, heard)
    wide = torch.promote_types(values.dtype, torch.float32)
    total = torch.zeros(shares[me].numel(), dtype=wide, device="cpu")
    for i, peer in enumerate(peers):
        total.add_(heard.get(peer, shares[me]).to(wide), alpha=coefficients[i] if coefficients else 1)
    shares[me].copy_(total if coefficients else total.div_(len(peers)))
    others = {peer: share for peer, share in shares.items() if peer != me}
    _swap_bytes(swap, dict.fromkeys(others, shares[me]), others)


def first(swap: Swap, peers: Sequence[int], me: int, values: torch.Tensor) -> None:
    """Sets the flat CPU tensor `values` to what the first of `peers` holds."""
    if me == peers[0]:
        _swap_bytes(swap, dict.fromkeys(peers[1:], values), {})
    else:
        _swap_bytes(swap, {}, {peers[0]: values})


def _swap_bytes(swap: Swap, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor]) -> None:
    """As bytes, which any type can be sent as."""
    as_bytes = lambda parts: {peer: part.view(torch.uint8) for peer, part in parts.items()}  # noqa: E731
    swap(as_bytes(sends), as_bytes(receives))
