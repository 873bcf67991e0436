# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Averaging over sites: every site says something about its slice, every site hears the same answer.

All sums run in site order over decoded payloads, a site's own included, so that every site computes the same bits.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch

from geo_accel.transport.gloo import GlooTransport
from geo_accel.wire.codec import Codec


@dataclass(frozen=True, slots=True)
class Agreement:
    """Result of one exchange, flat fp32."""

    said: torch.Tensor
    """What this site has told the others (`c` in DESIGN 3); not among the others' business until the next round."""
    mean: torch.Tensor
    """The mean over sites (`D`), the same bits everywhere."""


def direct(transport: GlooTransport, codec: Codec, values: torch.Tensor) -> Agreement:
    """Everyone sends its whole payload to everyone: (N-1) payloads per site, one latency."""
    payload = codec.encode(values)
    me = transport.topology.rank
    others = [peer for peer in transport.peers if peer != me]
    received = {peer: torch.empty_like(payload) for peer in others}
    transport.swap(dict.fromkeys(others, payload), received)
    said = values if codec.lossless else codec.decode(payload, torch.empty_like(values))
    mean, heard = torch.empty_like(values), torch.empty_like(values)
    for i, peer in enumerate(transport.peers):
        term = said if peer == me else codec.decode(received[peer], heard if i else mean)
        if i:
            mean.add_(term)
        elif term is not mean:
            mean.copy_(term)
    return Agreement(said=said, mean=mean.div_(len(transport.peers)))


def two_shot(transport: GlooTransport, codec: Codec, values: torch.Tensor) -> Agreement:
    """All-to-all of chunks, average, all-gather of averages: 2(N-1)/N payloads per site, two latencies.

    The average is encoded once more on its way back. Its owner counts what that rounding lost as not said, so that
    it stays in the owner's weights and is sent in a later round: over all sites nothing is lost.
    """
    peers, me = transport.peers, transport.topology.rank
    chunks = _chunks(values.numel(), len(peers), codec.block)
    mine = peers.index(me)

    payloads = {peer: codec.encode(values[lo:hi]) for peer, (lo, hi) in zip(peers, chunks, strict=True)}
    size = chunks[mine][1] - chunks[mine][0]
    received = {p: torch.empty(codec.encoded_bytes(size), dtype=torch.uint8) for p in peers if p != me}
    transport.swap({p: payload for p, payload in payloads.items() if p != me}, received)
    received[me] = payloads[me]
    average, heard = torch.zeros(size), torch.empty(size)
    for peer in peers:
        average.add_(codec.decode(received[peer], heard))
    average.div_(len(peers))

    answer = codec.encode(average)
    answers = {
        p: torch.empty(codec.encoded_bytes(hi - lo), dtype=torch.uint8)
        for p, (lo, hi) in zip(peers, chunks, strict=True)
        if p != me
    }
    transport.swap(dict.fromkeys(answers, answer), answers)
    answers[me] = answer

    mean = torch.empty_like(values)
    said = values if codec.lossless else torch.empty_like(values)
    for peer, (lo, hi) in zip(peers, chunks, strict=True):
        codec.decode(answers[peer], mean[lo:hi])
        if not codec.lossless:
            codec.decode(payloads[peer], said[lo:hi])
    if not codec.lossless:
        lo, hi = chunks[mine]
        said[lo:hi].sub_(average.sub_(mean[lo:hi]), alpha=len(peers))
    return Agreement(said=said, mean=mean)


def _chunks(numel: int, count: int, block: int) -> list[tuple[int, int]]:
    blocks = -(-numel // block)
    edges = [min(numel, blocks * i // count * block) for i in range(count)] + [numel]
    return list(pairwise(edges))


EXCHANGES = {"direct": direct, "two-shot": two_shot}
