# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Averaging over sites: every site says something about its slice, every site hears the same answer.

All sums run in site order over decoded payloads, a site's own included, so that every site computes the same bits.
Values are encoded, and answers handed on, in chunks that stay in a processor's cache: on a CPU such passes over memory
are much of what synchronising costs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from geo_accel.transport.gloo import GlooTransport
from geo_accel.wire.codec import Codec

CHUNK = 512 * 1024
"""Values that are encoded together; a payload is its chunks' encodings, one after the other."""

Prepare = Callable[[int, int], None]
"""`prepare(lo, hi)` fills values [lo, hi), which are then read."""


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
    """What was agreed on values [lo, hi): flat fp32, valid until the next one is asked for."""

    lo: int
    hi: int
    said: torch.Tensor
    """What this site has told the others (`c` in DESIGN 3); the values themselves where the codec is lossless."""
    mean: torch.Tensor
    """The mean over sites (`D`), the same bits everywhere."""


def direct(
    transport: GlooTransport, codec: Codec, values: torch.Tensor, scratch: Scratch, prepare: Prepare
) -> Iterator[Agreement]:
    """Everyone sends its whole payload to everyone: (N-1) payloads per site, one latency."""
    size, me = values.numel(), transport.topology.rank
    payload = _encode(codec, values, 0, size, scratch, "payload", prepare)
    others = [peer for peer in transport.peers if peer != me]
    payloads = {peer: scratch(f"received {peer}", payload.numel(), torch.uint8) for peer in others}
    transport.swap(dict.fromkeys(others, payload), payloads)
    payloads[me] = payload
    for lo, hi, first, last in _chunks(codec, 0, size):
        said = values[lo:hi] if codec.lossless else codec.decode(payload[first:last], scratch("said", hi - lo))
        mean, heard = scratch("mean", hi - lo), scratch("heard", hi - lo)
        for i, peer in enumerate(transport.peers):
            term = said if peer == me else codec.decode(payloads[peer][first:last], heard if i else mean)
            if i:
                mean.add_(term)
            elif term is not mean:
                mean.copy_(term)
        yield Agreement(lo, hi, said, mean.div_(len(transport.peers)))


def two_shot(
    transport: GlooTransport, codec: Codec, values: torch.Tensor, scratch: Scratch, prepare: Prepare
) -> Iterator[Agreement]:
    """All-to-all of shares, average, all-gather of averages: 2(N-1)/N payloads per site, two latencies.

    The average is encoded once more on its way back. Its owner counts what that rounding lost as not said, so that
    it stays in the owner's weights and is sent in a later round: over all sites nothing is lost.
    """
    peers, me = transport.peers, transport.topology.rank
    shares = dict(zip(peers, _shares(values.numel(), len(peers), codec.block), strict=True))
    first, last = shares[me]
    nbytes = {peer: _encoded_bytes(codec, lo, hi) for peer, (lo, hi) in shares.items()}
    payloads = {p: _encode(codec, values, lo, hi, scratch, f"payload {p}", prepare) for p, (lo, hi) in shares.items()}
    received = {p: scratch(f"received {p}", nbytes[me], torch.uint8) for p in peers if p != me}
    transport.swap({p: payload for p, payload in payloads.items() if p != me}, received)
    received[me] = payloads[me]

    average = scratch("average", last - first)
    for lo, hi, begin, end in _chunks(codec, 0, last - first):
        part, heard = average[lo:hi].zero_(), scratch("heard", hi - lo)
        for peer in peers:
            part.add_(codec.decode(received[peer][begin:end], heard))
        part.div_(len(peers))
    answer = _encode(codec, average, 0, last - first, scratch, "answer", lambda lo, hi: None)
    answers = {p: scratch(f"answer {p}", nbytes[p], torch.uint8) for p in peers if p != me}
    transport.swap(dict.fromkeys(answers, answer), answers)
    answers[me] = answer

    for peer, share in shares.items():
        for lo, hi, begin, end in _chunks(codec, *share):
            mean = codec.decode(answers[peer][begin:end], scratch("mean", hi - lo))
            said = values[lo:hi]
            if not codec.lossless:
                said = codec.decode(payloads[peer][begin:end], scratch("said", hi - lo))
                if peer == me:
                    lost = average[lo - first : hi - first].sub_(mean)
                    said.sub_(lost, alpha=len(peers))
            yield Agreement(lo, hi, said, mean)


def _encode(
    codec: Codec, values: torch.Tensor, lo: int, hi: int, scratch: Scratch, name: str, prepare: Prepare
) -> torch.Tensor:
    """The payload of values [lo, hi): in the buffer `name`, or a view of the values if they are sent as they are."""
    payload = scratch(name, _encoded_bytes(codec, lo, hi), torch.uint8)
    for first, last, begin, end in _chunks(codec, lo, hi):
        prepare(first, last)
        if not codec.lossless:
            codec.encode(values[first:last], payload[begin:end])
    return codec.encode(values[lo:hi], payload) if codec.lossless else payload


def _chunks(codec: Codec, lo: int, hi: int) -> Iterator[tuple[int, int, int, int]]:
    """The chunks of values [lo, hi): first and past-the-last value, first and past-the-last byte of the payload."""
    begin = 0
    for first in range(lo, hi, CHUNK):
        last = min(first + CHUNK, hi)
        end = begin + codec.encoded_bytes(last - first)
        yield first, last, begin, end
        begin = end


def _encoded_bytes(codec: Codec, lo: int, hi: int) -> int:
    whole, rest = divmod(hi - lo, CHUNK)
    return whole * codec.encoded_bytes(CHUNK) + codec.encoded_bytes(rest)


def _shares(numel: int, count: int, block: int) -> list[tuple[int, int]]:
    blocks = -(-numel // block)
    edges = [min(numel, blocks * i // count * block) for i in range(count)] + [numel]
    return list(pairwise(edges))


EXCHANGES = {"direct": direct, "two-shot": two_shot}
