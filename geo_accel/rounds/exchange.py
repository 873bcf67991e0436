# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Averaging over sites: every site says something about its slice, every site hears the same answer.

All sums run in site order over decoded payloads, a site's own included, so that every site computes the same bits:
adding one's own exact values instead, or in an order that begins with oneself, would not.
Values are encoded, and answers handed on, in chunks that stay in a processor's cache: on a CPU such passes over memory
are much of what synchronising costs.

An exchange is a generator in three parts, so that a caller can run them on different threads: up to its first yield it
encodes what this site says, up to its second it sends and hears, and after that it yields an Agreement for one chunk
after the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from geo_accel.config.names import CODEC_FACTS, HUB_ANSWER, SPARSE_CHUNK, Exchange
from geo_accel.plan.averaging import Averaging
from geo_accel.transport.base import Transport
from geo_accel.transport.identity import Message
from geo_accel.wire.codec import Codec, get_codec
from geo_accel.wire.kernels import settle_coded
from geo_accel.wire.overlap import add_up, weigh
from geo_accel.wire.quantised import Quantised

CHUNK = 512 * 1024
"""Values that are encoded together; a payload is its chunks' encodings, one after the other."""

Chunk = tuple[int, int, int, int]
"""Its first and past-the-last value, and its first and past-the-last byte of the payload."""

Say = Callable[[Codec, int, int, torch.Tensor], None]
"""`say(codec, lo, hi, out)` encodes values [lo, hi) into the flat uint8 `out`."""


class Scratch:
    """Buffers by name that grow once and are used again: fresh memory would cost page faults in every round."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def __call__(self, name: str, numel: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A flat buffer of `numel` elements, whose content lasts until `name` is asked for again."""
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < numel:
            buffer = self._buffers[name, dtype] = torch.empty(numel, dtype=dtype, device="cpu")
        return buffer[:numel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """An agreement as it came over the wire: the mean of payloads that one quantised codec has written."""

    bits: int
    heard: torch.Tensor
    """The payloads of `sites` sites, in their order, flat uint8; each begins `stride` bytes after the one before."""
    sites: int
    stride: int
    said: torch.Tensor
    """This site's own, flat uint8."""

    def settle(self, at: int, anchor: torch.Tensor, weights: torch.Tensor) -> None:
        """Adds the mean of elements from `at` on to `anchor`, and to `weights` what of it was not said; flat fp32."""
        settle_coded(
            self.heard.numpy(),
            self.sites,
            self.stride,
            self.said.numpy(),
            self.bits,
            at,
            anchor.numpy(),
            weights.numpy(),
        )


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed on values [lo, hi), valid until the next one is asked for."""

    lo: int
    hi: int
    decode: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    """What this site has told the others, and the average over sites, the same bits everywhere: flat fp32, free to
    overwrite. To be called once."""
    coded: Coded | None = None
    """The same, not decoded yet, where that is all there is to it."""


Course = Iterator[Agreement | None]
"""Yields None where the caller may go over to another thread, then agreements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How one round is averaged: a plan's `Averaging`, and what differs between its rounds."""

    averaging: Averaging
    scratch: Scratch = field(repr=False)
    """The round's own until it is over: what was said and heard lies there."""
    message: Message = field(repr=False)
    """What the round's swaps are told to be, and what is told with them."""
    seed: int = 0
    """Of "randk", the same on every site."""

    def codec(self, site: int) -> Codec:
        """What site number `site` encodes with."""
        return get_codec(self.averaging.codec, self.averaging.kept[site] if self.averaging.kept else 0, self.seed)

    @property
    def plain_mean(self) -> bool:
        """Whether all sites count alike, whatever they have sent."""
        return not self.averaging.overlap.threshold and not self.averaging.coefficients

    def answer_codec(self) -> Codec:
        """What a hub's answer is encoded with: room for everything that any site kept, or for every value."""
        if not self.averaging.sparse:
            return self.codec(0)
        name, kept = self.averaging.codec, self.averaging.kept
        if not CODEC_FACTS[name].says_places:  # all drew from one seed: those of the site that kept most
            return get_codec(name, max(kept), self.seed)
        wide = get_codec(name, min(SPARSE_CHUNK, sum(kept)))
        dense = get_codec(HUB_ANSWER)
        return min(wide, dense, key=lambda codec: codec.encoded_bytes(CHUNK))

    def average(self, heard: Callable[[int, torch.Tensor], torch.Tensor], sites: int, out: torch.Tensor) -> None:
        """Writes the average of what all sites have said into the flat fp32 `out`.

        `heard(site, room)` gives what that site said, decoded, in `room` or elsewhere.
        """
        rule, scratch = self.averaging, self.scratch
        room = scratch("heard", out.numel())
        if rule.overlap.threshold:
            count = scratch("count", out.numel(), torch.uint8)
            pattern = scratch("pattern", out.numel(), torch.bool)
            add_up(
                (self._scaled(heard(site, room), site, sites) for site in range(sites)), out, count, pattern=pattern
            )
            weigh(out, count, sites, threshold=rule.overlap.threshold, gain=rule.overlap.gain)
            return
        first = self._scaled(heard(0, out), 0, sites, out)
        for site in range(1, sites):
            torch.add(first, self._scaled(heard(site, room), site, sites), out=out)
            first = out
        out.div_(sites)

    def _scaled(self, values: torch.Tensor, site: int, sites: int, room: torch.Tensor | None = None) -> torch.Tensor:
        """`values` times N p_i, in `room` where one is given; they themselves where all sites count alike.

        Coefficients come from the plan, so every site multiplies by the same number.
        """
        if not self.averaging.coefficients:
            return values
        room = self.scratch("scaled", values.numel()) if room is None else room
        return torch.mul(values, self.averaging.coefficients[site] * sites, out=room)

    def owed(self, site: int, sites: int) -> float:
        """By how much `site` must say more so that the average changes by 1: 1 / p_i.

        1 under overlap weighting, where it depends on the coordinate and on what others will say: less may be made up
        for than was lost, never more, which would grow from round to round.
        """
        if self.averaging.overlap.threshold:
            return 1.0
        return 1 / self.averaging.coefficients[site] if self.averaging.coefficients else float(sites)


def direct(transport: Transport, terms: Terms, size: int, say: Say) -> Course:
    """Everyone sends its whole payload, of its exact size, to everyone: (N-1) payloads per site, one latency."""
    me, peers = transport.topology.rank, transport.peers
    codecs = [terms.codec(site) for site in range(len(peers))]
    mine = peers.index(me)
    own_codec = codecs[mine]
    sizes = [_encoded_bytes(codec, 0, size) for codec in codecs]
    together = terms.scratch("payloads", sum(sizes), torch.uint8)
    payloads = together.split(sizes)
    _encode(own_codec, 0, size, say, payloads[mine])
    yield None
    received = {peer: payload for peer, payload in zip(peers, payloads, strict=True) if peer != me}
    transport.swap(dict.fromkeys(received, payloads[mine]), received, terms.message)
    yield None
    chunks = [list(_chunks(codec, 0, size)) for codec in codecs]
    for parts in zip(*chunks, strict=True):
        lo, hi, first, last = parts[mine]
        own = payloads[mine][first:last]

        def decode(
            parts: tuple[Chunk, ...] = parts, own: torch.Tensor = own, length: int = hi - lo
        ) -> tuple[torch.Tensor, torch.Tensor]:
            said = own_codec.decode(own, terms.scratch("said", length))

            def heard(site: int, room: torch.Tensor) -> torch.Tensor:
                if site == mine:
                    return said
                _, _, first, last = parts[site]
                return codecs[site].decode(payloads[site][first:last], room)

            mean = terms.scratch("mean", length)
            terms.average(heard, len(peers), mean)
            return said, mean

        coded = None
        if isinstance(own_codec, Quantised) and terms.plain_mean:
            coded = Coded(bits=own_codec.bits, heard=together[first:], sites=len(peers), stride=sizes[mine], said=own)
        yield Agreement(lo, hi, decode, coded)


def hub(transport: Transport, terms: Terms, size: int, say: Say) -> Course:
    """One site hears all others, averages and answers: a payload up and an answer down for each, two latencies.

    Nobody but the hub hears of the others' sizes, so what a site sends may follow its own uplink. The hub counts what
    encoding the answer lost as not said by itself: it is sent in a later round.
    """
    me, peers = transport.topology.rank, transport.peers
    mine, center = peers.index(me), peers[terms.averaging.hub]
    codec, answering = terms.codec(mine), terms.answer_codec()
    payload = terms.scratch("payload", _encoded_bytes(codec, 0, size), torch.uint8)
    _encode(codec, 0, size, say, payload)
    yield None
    answer = terms.scratch("answer", _encoded_bytes(answering, 0, size), torch.uint8)
    # Headers go to everybody, so that whoever is elsewhere is known to all and not to the hub alone.
    nothing = dict.fromkeys((peer for peer in peers if peer != me), payload[:0])
    lost = None
    if me != center:
        transport.swap(nothing | {center: payload}, {}, terms.message)
        transport.swap(nothing, {center: answer}, terms.message)
    else:
        codecs = [terms.codec(site) for site in range(len(peers))]
        payloads = {
            peer: terms.scratch(f"received {peer}", _encoded_bytes(one, 0, size), torch.uint8)
            for peer, one in zip(peers, codecs, strict=True)
            if peer != me
        }
        transport.swap(nothing, payloads, terms.message)
        payloads[me] = payload
        lost = terms.scratch("lost", size)
        chunks = [list(_chunks(one, 0, size)) for one in codecs]
        for parts, (lo, hi, begin, end) in zip(zip(*chunks, strict=True), _chunks(answering, 0, size), strict=True):

            def heard(site: int, room: torch.Tensor, parts: tuple[Chunk, ...] = parts) -> torch.Tensor:
                _, _, first, last = parts[site]
                return codecs[site].decode(payloads[peers[site]][first:last], room)

            mean = lost[lo:hi]
            terms.average(heard, len(peers), mean)
            answering.encode(mean, answer[begin:end])
            mean.sub_(answering.decode(answer[begin:end], terms.scratch("mean", hi - lo)))
        transport.swap(dict.fromkeys(nothing, answer), {}, terms.message)
    yield None
    for (lo, hi, first, last), (_, _, begin, end) in zip(
        _chunks(codec, 0, size), _chunks(answering, 0, size), strict=True
    ):

        def decode(
            lo: int = lo,
            hi: int = hi,
            own: torch.Tensor = payload[first:last],
            agreed: torch.Tensor = answer[begin:end],
        ) -> tuple[torch.Tensor, torch.Tensor]:
            mean = answering.decode(agreed, terms.scratch("mean", hi - lo))
            said = codec.decode(own, terms.scratch("said", hi - lo))
            if lost is not None and not codec.lossless:
                said.sub_(lost[lo:hi], alpha=terms.owed(mine, len(peers)))
            return said, mean

        yield Agreement(lo, hi, decode)


def two_shot(transport: Transport, terms: Terms, size: int, say: Say) -> Course:
    """All-to-all of shares, average, all-gather of averages: 2(N-1)/N payloads per site, two latencies.

    The average is encoded once more on its way back. Its owner counts what that rounding lost as not said, so that
    it stays in the owner's weights and is sent in a later round: over all sites nothing is lost.
    """
    peers, me, scratch, codec = transport.peers, transport.topology.rank, terms.scratch, terms.codec(0)
    shares = dict(zip(peers, _shares(size, len(peers), codec.block), strict=True))
    first, last = shares[me]
    nbytes = {peer: _encoded_bytes(codec, lo, hi) for peer, (lo, hi) in shares.items()}
    payloads = {p: scratch(f"payload {p}", nbytes[p], torch.uint8) for p in peers}
    for p, share in shares.items():
        _encode(codec, *share, say, payloads[p])
    yield None
    received = {p: scratch(f"received {p}", nbytes[me], torch.uint8) for p in peers if p != me}
    transport.swap({p: payload for p, payload in payloads.items() if p != me}, received, terms.message)
    received[me] = payloads[me]

    average = scratch("average", last - first)
    for lo, hi, begin, end in _chunks(codec, 0, last - first):

        def heard(site: int, room: torch.Tensor, begin: int = begin, end: int = end) -> torch.Tensor:
            return codec.decode(received[peers[site]][begin:end], room)

        terms.average(heard, len(peers), average[lo:hi])
    answers = {p: scratch(f"answer {p}", nbytes[p], torch.uint8) for p in peers}
    for lo, hi, begin, end in _chunks(codec, 0, last - first):
        codec.encode(average[lo:hi], answers[me][begin:end])
    others = {p: answer for p, answer in answers.items() if p != me}
    transport.swap(dict.fromkeys(others, answers[me]), others, terms.message)
    yield None

    for peer, share in shares.items():
        for lo, hi, begin, end in _chunks(codec, *share):
            own, agreed = payloads[peer][begin:end], answers[peer][begin:end]

            def decode(
                peer: int = peer, lo: int = lo, hi: int = hi, own: torch.Tensor = own, agreed: torch.Tensor = agreed
            ) -> tuple[torch.Tensor, torch.Tensor]:
                mean = codec.decode(agreed, scratch("mean", hi - lo))
                said = codec.decode(own, scratch("said", hi - lo))
                if peer == me and not codec.lossless:
                    lost = average[lo - first : hi - first].sub_(mean)
                    said.sub_(lost, alpha=terms.owed(peers.index(me), len(peers)))
                return said, mean

            coded = None
            if isinstance(codec, Quantised) and peer != me:
                coded = Coded(bits=codec.bits, heard=agreed, sites=1, stride=0, said=own)
            yield Agreement(lo, hi, decode, coded)


def _encode(codec: Codec, lo: int, hi: int, say: Say, payload: torch.Tensor) -> None:
    """Values [lo, hi) into `payload`, flat uint8 of exactly their size."""
    for first, last, begin, end in _chunks(codec, lo, hi):
        say(codec, first, last, payload[begin:end])


def _chunks(codec: Codec, lo: int, hi: int) -> Iterator[Chunk]:
    """The chunks of values [lo, hi)."""
    begin = 0
    for first in range(lo, hi, CHUNK):
        last = min(first + CHUNK, hi)
        end = begin + codec.encoded_bytes(last - first)
        yield first, last, begin, end
        begin = end


def _encoded_bytes(codec: Codec, lo: int, hi: int) -> int:
    whole, rest = divmod(hi - lo, CHUNK)
    return whole * codec.encoded_bytes(CHUNK) + codec.encoded_bytes(rest)


def _shares(numel: int, count: int, block: int) -> Sequence[tuple[int, int]]:
    blocks = -(-numel // block)
    edges = [min(numel, blocks * i // count * block) for i in range(count)] + [numel]
    return list(pairwise(edges))


BY_NAME = {Exchange.DIRECT: direct, Exchange.HUB: hub, Exchange.TWO_SHOT: two_shot}
