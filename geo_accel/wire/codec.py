# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The codec interface, and codecs by name."""

from functools import lru_cache
from typing import Protocol

import torch

from geo_accel.config.names import CODECS
from geo_accel.wire.floats import Bf16, Fp32
from geo_accel.wire.quantised import Quantised
from geo_accel.wire.sparse import RandK, TopK


class Codec(Protocol):
    """Encodes flat tensors of finite fp32. Encoding is deterministic, and `decode(encode(x))` is what a site has said.

    All work happens on the device that the values are on.
    """

    name: str
    lossless: bool
    block: int
    """Slices that are encoded separately start at multiples of this many elements."""

    def encoded_bytes(self, numel: int) -> int:
        """Exact payload size, in bytes, of `numel` elements."""

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat fp32 into the flat uint8 `out` of exactly `encoded_bytes` bytes, which is returned."""

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat uint8 payload into the flat fp32 tensor `out`, which is returned."""


_DENSE: dict[str, Codec] = {codec.name: codec for codec in (Fp32(), Bf16(), Quantised(8), Quantised(4), Quantised(2))}


@lru_cache(maxsize=64, typed=True)
def get_codec(name: str, kept: int = 0, seed: int = 0) -> Codec:
    """The codec called `name`.

    A sparse one keeps `kept` values of every 4096; "randk" picks them by `seed`, which all sites must share. Raises
    ValueError for a name that is none, naming those there are.
    """
    if name == TopK.name:
        return TopK(kept)
    if name == RandK.name:
        return RandK(kept, seed)
    try:
        return _DENSE[name]
    except KeyError:
        raise ValueError(f"unknown codec {name!r}: there are {', '.join(CODECS)}.") from None
