# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Only some of the values: the largest, or as a control some at random.

What is not sent is 0 to the receiver and stays with the sender.
"""

from functools import lru_cache

import torch

from geo_accel.config.names import SPARSE_CHUNK
from geo_accel.wire import largest
from geo_accel.wire.quantised import Quantised

# Of kept values. Fewer bits make room for more values, and what rounding loses is sent later, as if not kept.
_VALUES = Quantised(4)


class TopK:
    """The `kept` values of largest magnitude of every 4096, in int4, and where they are.

    Chunks of 4096 that keep equally many are vectorised, several times faster than one choice over all values, and a
    place then takes 12 bits. Of a last, shorter chunk the same share is kept, rounded up. Places are 12 bits for each
    value sent or one bit for each value of the chunk, whichever takes less room.

    A payload is, first for the whole chunks and then for a shorter one: the values as `Quantised(4)` encodes them,
    then their places, filled up to a multiple of 4 bytes. Two places take 3 bytes, the first in the lowest 12 bits; an
    odd one has a 0 beside it. As bits, value j * bytes + i of a chunk of `bytes` bytes has bit j of byte i. Values are
    sent in the order in which they stand.
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
        """Flat uint8 payload into the flat fp32 tensor `out`, which is returned.

        Raises ValueError, on the CPU, for a payload that no encoder has written.
        """
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
    drawn = torch.randperm(numel, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:count]
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
    start = _VALUES.encoded_bytes(rows * kept)
    size, as_bits = _place_bytes(rows, width, kept)
    picked, places = values.new_empty(rows, kept), out[start : start + size]
    out[start + size :].zero_()
    if values.device.type == "cpu":
        largest.choose(values.numpy(), picked.numpy(), places.numpy(), as_bits)
    else:
        _choose_with_torch(values, picked, places, as_bits)
    _VALUES.encode(picked.view(-1), out[:start])


def _decode_largest(payload: torch.Tensor, kept: int, out: torch.Tensor) -> None:
    """`payload` into `out` (rows, width)."""
    rows, width = out.shape
    start = _VALUES.encoded_bytes(rows * kept)
    picked = _VALUES.decode(payload[:start], out.new_empty(rows * kept))
    size, as_bits = _place_bytes(rows, width, kept)
    places = payload[start : start + size]
    if out.device.type == "cpu":
        if not largest.spread(picked.numpy(), places.numpy(), out.numpy(), as_bits):
            raise ValueError(f"topk: a payload names a value beyond the {width} of its chunk.")
    else:
        _spread_with_torch(picked.view(rows, kept), places, out, as_bits)


def _choose_with_torch(values: torch.Tensor, picked: torch.Tensor, places: torch.Tensor, as_bits: bool) -> None:
    """As `largest.choose` for CPUs, to the same bits unless magnitudes are equal: any of them may be taken."""
    rows, kept = picked.shape
    chosen = values.abs().topk(kept, dim=1, sorted=False).indices.sort(dim=1).values
    torch.gather(values, 1, chosen, out=picked)
    if as_bits:
        sent = places.new_zeros(rows, 8, places.numel() // rows)
        sent.view(rows, -1).scatter_(1, chosen, 1)
        target = places.view(rows, -1).copy_(sent[:, 7])
        for bit in range(6, -1, -1):
            target.mul_(2).add_(sent[:, bit])
        return
    flat = chosen.view(-1).to(torch.int32)
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    one, other = flat[::2], flat[1::2]
    triples = places.view(-1, 3)
    triples[:, 0] = one & 255
    triples[:, 1] = (one >> 8) | ((other & 15) << 4)
    triples[:, 2] = other >> 4


def _spread_with_torch(picked: torch.Tensor, places: torch.Tensor, out: torch.Tensor, as_bits: bool) -> None:
    """As `largest.spread` for CPUs, to the same bits."""
    rows, kept = picked.shape
    out.zero_()
    if as_bits:
        coded = places.view(rows, -1)
        sent = coded.new_empty(rows, 8, coded.shape[1])
        for bit in range(8):
            torch.bitwise_and(coded, 1 << bit, out=sent[:, bit])
        out.masked_scatter_(sent.view(rows, -1)[:, : out.shape[1]] != 0, picked)
        return
    triples = places.view(-1, 3).to(torch.int64)
    one = triples[:, 0] | ((triples[:, 1] & 15) << 8)
    other = (triples[:, 1] >> 4) | (triples[:, 2] << 4)
    out.scatter_(1, torch.stack([one, other], dim=1).view(-1)[: rows * kept].view(rows, kept), picked)
