# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The codec interface: a flat fp32 slice to bytes and back."""

from typing import Protocol

import torch


class Codec(Protocol):
    """Encodes flat fp32 tensors. Encoding is deterministic, and `decode(encode(x))` is what a site has said."""

    name: str
    lossless: bool
    block: int
    """Slices that are encoded separately start at multiples of this many elements."""

    def encoded_bytes(self, numel: int) -> int:
        """Exact payload size, in bytes, of `numel` elements."""

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat fp32 to a flat uint8 payload: in `out`, of its exact size, or as another view of `values`."""

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat uint8 payload into the flat fp32 tensor `out`, which is returned."""


class Fp32:
    """The values themselves: lossless, four bytes each."""

    name = "fp32"
    lossless = True
    block = 1

    def encoded_bytes(self, numel: int) -> int:
        return 4 * numel

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return values.view(torch.uint8)

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(payload.view(torch.float32))


class Bf16:
    """Rounded to bfloat16: two bytes each, relative error at most 2**-8."""

    name = "bf16"
    lossless = False
    block = 1

    def encoded_bytes(self, numel: int) -> int:
        return 2 * numel

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        out.view(torch.bfloat16).copy_(values)
        return out

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(payload.view(torch.bfloat16))


_CODECS: dict[str, Codec] = {codec.name: codec for codec in (Fp32(), Bf16())}


def get_codec(name: str) -> Codec:
    """The codec called `name`; ValueError names those there are."""
    try:
        return _CODECS[name]
    except KeyError:
        raise ValueError(f"unknown codec {name!r}: there are {', '.join(_CODECS)}.") from None
