# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Floating-point numbers as they are or rounded."""

import torch

# Larger values would round to infinity; what is cut off is sent later, like all that a codec loses.
_LARGEST = torch.finfo(torch.bfloat16).max


class Fp32:
    """The values themselves: lossless, four bytes each."""

    name = "fp32"
    lossless = True
    block = 1

    def encoded_bytes(self, numel: int) -> int:
        """Exact payload size, in bytes, of `numel` elements."""
        return 4 * numel

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat fp32 into the flat uint8 `out` of exactly `encoded_bytes` bytes, which is returned."""
        return out.copy_(values.view(torch.uint8))

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat uint8 payload into the flat fp32 tensor `out`, which is returned."""
        return out.copy_(payload.view(torch.float32))


class Bf16:
    """Rounded to bfloat16: two bytes each.

    No value is off by more than 2**-8 of its magnitude, or 2**-126 where that is more: some processors round subnormal
    values to 0. Finite values stay finite.
    """

    name = "bf16"
    lossless = False
    block = 1

    def encoded_bytes(self, numel: int) -> int:
        """Exact payload size, in bytes, of `numel` elements."""
        return 2 * numel

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat fp32 into the flat uint8 `out` of exactly `encoded_bytes` bytes, which is returned."""
        out.view(torch.bfloat16).copy_(values).clamp_(-_LARGEST, _LARGEST)
        return out

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat uint8 payload into the flat fp32 tensor `out`, which is returned."""
        return out.copy_(payload.view(torch.bfloat16))
