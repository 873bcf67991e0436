# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Only some of the values: the largest, or as a control some at random.

What is not sent is 0 to the receiver and stays with the sender.
"""

from functools import lru_cache

import torch

from geo_accel.config import SPARSE_CHUNK
from geo_accel.wire.quantised import Quantised

# Of kept values. Fewer bits make room for more values, and what rounding loses is sent later, as if not kept.
_VALUES = Quantised(4)

# Groups must leave less than this share of a row to choose from, or they cost more time than they save.
_WORTHWHILE = 0.6


class TopK:
    """The `kept` values of largest magnitude of every 4096, in int4, and where they are.

    Chunks of 4096 that keep equally many are vectorised, several times faster than one choice over all values, and a
    place then takes 12 bits. Of a last, shorter chunk the same share is kept, rounded up. Places are 12 bits for each
    value sent or one bit for each value of the chunk, whichever takes less room.

    A payload is, first for the whole chunks and then for a shorter one: the values as `Quantised(4)` encodes them,
    then their places, filled up to a multiple of 4 bytes. Two places take 3 bytes, the first in the lowest 12 bits; an
    odd one has a 0 beside it. As bits, value j * bytes + i of a chunk of `bytes` bytes has bit j of byte i, and values
    are sent in the order in which they stand.
    """

    name = "topk"
    lossless = False
    block = SPARSE_CHUNK

    def __init__(self, kept: int) -> None:
        """Raises ValueError unless 1 <= `kept` <= 4096."""
        self.kept = _checked(kept)

    def encoded_bytes(self, numel: int) -> int:
        """Exact payload size, in bytes, of `numel` elements; a multiple of 4."""
        return sum(_part_bytes(rows, width, kept) for rows, width, kept in _parts(numel, self.kept))

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat fp32 into the flat uint8 `out` of exactly `encoded_bytes` bytes, which is returned."""
        first = begin = 0
        for rows, width, kept in _parts(values.numel(), self.kept):
            last, end = first + rows * width, begin + _part_bytes(rows, width, kept)
            _encode_largest(values[first:last].view(rows, width), kept, out[begin:end])
            first, begin = last, end
        return out

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat uint8 payload into the flat fp32 tensor `out`, which is returned."""
        first = begin = 0
        for rows, width, kept in _parts(out.numel(), self.kept):
            last, end = first + rows * width, begin + _part_bytes(rows, width, kept)
            _decode_largest(payload[begin:end], kept, out[first:last].view(rows, width))
            first, begin = last, end
        return out


class RandK:
    """A share of `kept` / 4096 of the values at random, rounded up, in int4: the control for `TopK`.

    All sites draw the same places from `seed` and the number of values, so that no place has to be sent. A payload is
    the values in the order in which they stand, as `Quantised(4)` encodes them. Sites need the same version of torch:
    others may draw otherwise.
    """

    name = "randk"
    lossless = False
    block = SPARSE_CHUNK

    def __init__(self, kept: int, seed: int) -> None:
        """Raises ValueError unless 1 <= `kept` <= 4096."""
        self.kept = _checked(kept)
        self._seed = seed

    def encoded_bytes(self, numel: int) -> int:
        """Exact payload size, in bytes, of `numel` elements; a multiple of 4."""
        return _VALUES.encoded_bytes(self._count(numel))

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat fp32 into the flat uint8 `out` of exactly `encoded_bytes` bytes, which is returned."""
        return _VALUES.encode(values.index_select(0, self._places(values)), out)

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat uint8 payload into the flat fp32 tensor `out`, which is returned."""
        places = self._places(out)
        return out.zero_().index_copy_(0, places, _VALUES.decode(payload, out.new_empty(len(places))))

    def _count(self, numel: int) -> int:
        return -(-numel * self.kept // SPARSE_CHUNK)

    def _places(self, values: torch.Tensor) -> torch.Tensor:
        return _drawn(self._seed, values.numel(), self._count(values.numel()), values.device)


# Drawing takes ten times as long as all else, and a round asks for the same places for all its chunks; sites may keep
# unequally many.
@lru_cache(maxsize=16)
def _drawn(seed: int, numel: int, count: int, device: torch.device) -> torch.Tensor:
    """`count` different places below `numel`, in ascending order; never to be written to."""
    # On the CPU, whatever the device, so that unlike devices draw alike.
    drawn = torch.randperm(numel, generator=torch.Generator().manual_seed(seed))[:count]
    return drawn.sort().values.to(device)


def _checked(kept: int) -> int:
    if isinstance(kept, bool) or not isinstance(kept, int) or not 1 <= kept <= SPARSE_CHUNK:
        raise ValueError(f"a sparse codec keeps 1 to {SPARSE_CHUNK} values of every {SPARSE_CHUNK}, not {kept!r}.")
    return kept


def _parts(numel: int, kept: int) -> list[tuple[int, int, int]]:
    """Rows, their width, and what each keeps: the whole chunks, then the shorter one."""
    rows, rest = divmod(numel, SPARSE_CHUNK)
    parts = [(rows, SPARSE_CHUNK, kept), (1, rest, -(-kept * rest // SPARSE_CHUNK))]
    return [part for part in parts if part[0] * part[1]]


def _place_bytes(rows: int, width: int, kept: int) -> tuple[int, bool]:
    """Bytes that places take, and whether as one bit per value."""
    bits, indices = rows * -(-width // 8), -(-rows * kept // 2) * 3
    return min(bits, indices), bits <= indices


def _part_bytes(rows: int, width: int, kept: int) -> int:
    size = _VALUES.encoded_bytes(rows * kept) + _place_bytes(rows, width, kept)[0]
    return -(-size // 4) * 4


def _encode_largest(values: torch.Tensor, kept: int, out: torch.Tensor) -> None:
    """`values` (rows, width) into `out`."""
    rows, width = values.shape
    places = _largest(values, kept)
    start = _VALUES.encoded_bytes(rows * kept)
    size, as_bits = _place_bytes(rows, width, kept)
    coded = out[start : start + size]
    out[start + size :].zero_()
    if as_bits:
        sent = out.new_zeros(rows, 8, -(-width // 8))
        sent.view(rows, -1).scatter_(1, places, 1)
        # Only a single row is wider than its values, so that places in the padded rows are those in the values.
        picked = values.view(-1).index_select(0, sent.view(-1).nonzero().view(-1))
        target = coded.view(rows, -1).copy_(sent[:, 7])
        for bit in range(6, -1, -1):
            target.mul_(2).add_(sent[:, bit])
    else:
        picked = values.gather(1, places).view(-1)
        flat = places.view(-1).to(torch.int32)
        if flat.numel() % 2:
            flat = torch.cat([flat, flat.new_zeros(1)])
        one, other = flat[::2], flat[1::2]
        triples = coded.view(-1, 3)
        triples[:, 0] = one & 255
        triples[:, 1] = (one >> 8) | ((other & 15) << 4)
        triples[:, 2] = other >> 4
    _VALUES.encode(picked, out[:start])


def _decode_largest(payload: torch.Tensor, kept: int, out: torch.Tensor) -> None:
    """`payload` into `out` (rows, width)."""
    rows, width = out.shape
    start = _VALUES.encoded_bytes(rows * kept)
    values = _VALUES.decode(payload[:start], out.new_empty(rows * kept)).view(rows, kept)
    size, as_bits = _place_bytes(rows, width, kept)
    coded = payload[start : start + size]
    out.zero_()
    if as_bits:
        coded = coded.view(rows, -1)
        sent = coded.new_empty(rows, 8, coded.shape[1])
        for bit in range(8):
            torch.bitwise_and(coded, 1 << bit, out=sent[:, bit])
        out.masked_scatter_(sent.view(rows, -1)[:, :width] != 0, values)
        return
    triples = coded.view(-1, 3).to(torch.int64)
    one = triples[:, 0] | ((triples[:, 1] & 15) << 8)
    other = (triples[:, 1] >> 4) | (triples[:, 2] << 4)
    places = torch.stack([one, other], dim=1).view(-1)[: rows * kept].view(rows, kept)
    out.scatter_(1, places, values)


def _largest(values: torch.Tensor, kept: int) -> torch.Tensor:
    """Where the `kept` largest magnitudes of each row of `values` (rows, width) are, in any order: (rows, kept).

    The largest values are in the groups with the largest maxima, apart from ties, so no more groups than values are
    kept have to be searched. Maxima are cheap, and choosing from less than the whole row takes less time.
    """
    rows, width = values.shape
    if kept == width:
        return torch.arange(width, device=values.device).expand(rows, width)
    size = _group_size(width, kept)
    if size == 1:
        return values.abs().topk(kept, dim=1, sorted=False).indices
    count = width // size
    groups = values.view(rows, size, count)
    highest = torch.maximum(groups.amax(1), groups.amin(1).neg_())
    chosen = highest.topk(kept, dim=1, sorted=False).indices
    members = torch.arange(0, width, count, device=values.device)
    places = (chosen[:, None, :] + members[:, None]).view(rows, size * kept)
    best = values.gather(1, places).abs_().topk(kept, dim=1, sorted=False).indices
    return places.gather(1, best)


@lru_cache(maxsize=64)
def _group_size(width: int, kept: int) -> int:
    """Values per group with which a choice has the fewest maxima and values to look at; 1 for no groups."""
    looked_at = {1: _WORTHWHILE * width}
    size = 2
    while width % size == 0 and width // size >= kept:
        looked_at[size] = width // size + size * kept
        size *= 2
    return min(looked_at, key=looked_at.__getitem__)
