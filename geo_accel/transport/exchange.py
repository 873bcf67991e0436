# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Averaging over sites: every site says something about its slice, every site hears the same answer.

All sums run in site order over decoded payloads, a site's own included, so that every site computes the same bits.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch

from geo_accel.transport.gloo import GlooTransport
from geo_accel.wire.codec import Codec


class Scratch:
    """Buffers by name that grow once and are used again: fresh memory would cost page faults in every round."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def __call__(self, name: str, numel: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A flat buffer of `numel` elements, whose content lasts until `name` is asked for again."""
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < numel:
            buffer = self._buffers[name, dtype] = torch.empty(numel, dtype=dtype)
        return buffer[:numel]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Result of one exchange, flat fp32, valid until the next one."""

    said: torch.Tensor
    """What this site has told the others (`c` in DESIGN 3); the values themselves where the codec is lossless."""
    mean: torch.Tensor
    """The mean over sites (`D`), the same bits everywhere."""


def direct(transport: GlooTransport, codec: Codec, values: torch.Tensor, scratch: Scratch) -> Agreement:
    """Everyone sends its whole payload to everyone: (N-1) payloads per site, one latency."""
    size, nbytes = values.numel(), codec.encoded_bytes(values.numel())
    payload = codec.encode(values, scratch("payload", nbytes, torch.uint8))
    me = transport.topology.rank
    others = [peer for peer in transport.peers if peer != me]
    received = {peer: scratch(f"received {peer}", nbytes, torch.uint8) for peer in others}
    transport.swap(dict.fromkeys(others, payload), received)
    said = values if codec.lossless else codec.decode(payload, scratch("said", size))
    mean, heard = scratch("mean", size), scratch("heard", size)
    for i, peer in enumerate(transport.peers):
        term = said if peer == me else codec.decode(received[peer], heard if i else mean)
        if i:
            mean.add_(term)
        elif term is not mean:
            mean.copy_(term)
    return Agreement(said=said, mean=mean.div_(len(transport.peers)))


def two_shot(transport: GlooTransport, codec: Codec, values: torch.Tensor, scratch: Scratch) -> Agreement:
    """All-to-all of chunks, average, all-gather of averages: 2(N-1)/N payloads per site, two latencies.

    The average is encoded once more on its way back. Its owner counts what that rounding lost as not said, so that
    it stays in the owner's weights and is sent in a later round: over all sites nothing is lost.
    """
    peers, me = transport.peers, transport.topology.rank
    chunks = dict(zip(peers, _chunks(values.numel(), len(peers), codec.block), strict=True))

    def room(name: str, peer: int) -> torch.Tensor:
        lo, hi = chunks[peer]
        return scratch(name, codec.encoded_bytes(hi - lo), torch.uint8)

    payloads = {p: codec.encode(values[lo:hi], room(f"payload {p}", p)) for p, (lo, hi) in chunks.items()}
    received = {p: room(f"received {p}", me) for p in peers if p != me}
    transport.swap({p: payload for p, payload in payloads.items() if p != me}, received)
    received[me] = payloads[me]
    first, last = chunks[me]
    average, heard = scratch("average", last - first).zero_(), scratch("heard", last - first)
    for peer in peers:
        average.add_(codec.decode(received[peer], heard))
    average.div_(len(peers))

    answer = codec.encode(average, room("answer", me))
    answers = {p: room(f"answer {p}", p) for p in peers if p != me}
    transport.swap(dict.fromkeys(answers, answer), answers)
    answers[me] = answer

    mean = scratch("mean", values.numel())
    said = values if codec.lossless else scratch("said", values.numel())
    for peer, (lo, hi) in chunks.items():
        codec.decode(answers[peer], mean[lo:hi])
        if not codec.lossless:
            codec.decode(payloads[peer], said[lo:hi])
    if not codec.lossless:
        said[first:last].sub_(average.sub_(mean[first:last]), alpha=len(peers))
    return Agreement(said=said, mean=mean)


def _chunks(numel: int, count: int, block: int) -> list[tuple[int, int]]:
    blocks = -(-numel // block)
    edges = [min(numel, blocks * i // count * block) for i in range(count)] + [numel]
    return list(pairwise(edges))


EXCHANGES = {"direct": direct, "two-shot": two_shot}
