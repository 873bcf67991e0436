# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Few bits per value, with one scale for each block of values."""

import math

import numpy as np
import torch
from torch.nn.functional import pad

from geo_accel.wire import kernels
from geo_accel.wire.kernels import BLOCK, LARGEST, LEAST_SCALE, STEPS, STRETCH

_NOTHING = np.empty(0, np.float32)


class Quantised:
    """Symmetric block-wise quantisation to 8, 4 or 2 bits: 8.25, 4.25 or 2.25 bits per value with the scales.

    A block's scale spreads the levels from its largest magnitude to its negative. 8 and 4 bits have the levels -127 to
    127 and -7 to 7; 2 bits have four levels without a zero, -1.5, -0.5, 0.5 and 1.5, whose error is half as large as
    that of -1, 0, 1. No value is off by more than half a level: 1/254, 1/14 or 1/4 of its block's largest magnitude,
    and 2**-22 of that for rounding. Blocks whose scale would be below 1e-36 are sent as zeros.

    A payload is all scales, then all codes, in the values' order. A code is its level: as a signed byte (8 bits), plus
    8 (4 bits) or plus 1.5 (2 bits); the smaller ones fill bytes from the lowest bits up. The last block is filled up
    with zeros.
    """

    lossless = False
    block = BLOCK

    def __init__(self, bits: int) -> None:
        self.name = f"int{bits}"
        self.bits = bits
        self._width = BLOCK * bits // 8

    def encoded_bytes(self, numel: int) -> int:
        """Exact payload size, in bytes, of `numel` elements; a multiple of 4."""
        return -(-numel // BLOCK) * (4 + self._width)

    def encode(self, values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat fp32 into the flat uint8 `out` of exactly `encoded_bytes` bytes, which is returned.

        Raises ValueError, on the CPU, for a value that is not finite, as an average of huge ones can be.
        """
        if values.device.type == "cpu":
            bad = self.encode_change(values, None, out)
            if bad is not None:
                raise ValueError(f"{self.name} encodes finite values only: element {bad} is {values[bad].item()}.")
            return out
        scales, codes = self._parts(out)
        whole = values.numel() // BLOCK
        if whole:
            self._encode_with_torch(values[: whole * BLOCK].view(-1, BLOCK), scales[:whole], codes[:whole])
        if whole < len(scales):
            rest = pad(values[whole * BLOCK :], (0, BLOCK - values.numel() % BLOCK))
            self._encode_with_torch(rest.view(1, BLOCK), scales[whole:], codes[whole:])
        return out

    def encode_change(
        self, values: torch.Tensor, base: torch.Tensor | None, out: torch.Tensor, at: int = 0
    ) -> int | None:
        """On the CPU: encodes `values` - `base`, both flat fp32, as elements `at` and on of the payload `out`.

        `at` is a multiple of the block, and so is the number of values unless they are the payload's last. Returns the
        place of a value that is not finite, before which it ends; None where all are.
        """
        scales, codes = self._arrays(out)
        now = values.numpy()
        before = _NOTHING if base is None else base.numpy()
        whole, first = len(now) // BLOCK, at // BLOCK
        bad = kernels.encode(
            now[: whole * BLOCK],
            before[: whole * BLOCK],
            scales[first : first + whole],
            codes[first * self._width : (first + whole) * self._width],
            self.bits,
        )
        if bad < 0 and whole * BLOCK < len(now):
            rest = np.zeros(BLOCK, np.float32)
            rest[: len(now) % BLOCK] = now[whole * BLOCK :]
            rest[: len(before) % BLOCK] -= before[whole * BLOCK :]
            bad = kernels.encode(rest, _NOTHING, scales[-1:], codes[-self._width :], self.bits)
            bad = whole if bad == 0 else -1
        if bad < 0:
            return None
        part = slice(bad * BLOCK, (bad + 1) * BLOCK)
        change = now[part] - before[part] if len(before) else now[part]
        return bad * BLOCK + int(np.isfinite(change).argmin())

    def decode(self, payload: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Flat uint8 payload into the flat fp32 tensor `out`, which is returned."""
        if out.device.type == "cpu":
            self._decode_on_cpu(payload, out.numpy())
            return out
        scales, codes = self._parts(payload)
        whole = out.numel() // BLOCK
        if whole:
            self._decode_with_torch(scales[:whole], codes[:whole], out[: whole * BLOCK].view(-1, BLOCK))
        if whole < len(scales):
            rest = out.new_empty(1, BLOCK)
            self._decode_with_torch(scales[whole:], codes[whole:], rest)
            out[whole * BLOCK :].copy_(rest.view(-1)[: out.numel() % BLOCK])
        return out

    def _decode_on_cpu(self, payload: torch.Tensor, out: np.ndarray) -> None:
        scales, codes = self._arrays(payload)
        whole = len(out) // BLOCK
        kernels.decode(scales[:whole], codes[: whole * self._width], out[: whole * BLOCK], self.bits)
        if whole < len(scales):
            rest = np.zeros(BLOCK, np.float32)
            kernels.decode(scales[whole:], codes[whole * self._width :], rest, self.bits)
            out[whole * BLOCK :] = rest[: len(out) % BLOCK]

    def _arrays(self, payload: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Scales and codes; numpy's views cost a tenth of torch's, and there are many."""
        content = payload.numpy()
        blocks = len(content) // (4 + self._width)
        return content[: 4 * blocks].view(np.float32), content[4 * blocks :]

    def _parts(self, payload: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = payload.numel() // (4 + self._width)
        return payload[: 4 * blocks].view(torch.float32), payload[4 * blocks :].view(-1, self._width)

    def _encode_with_torch(self, values: torch.Tensor, scales: torch.Tensor, codes: torch.Tensor) -> None:
        """`values` (blocks, 128) into `scales` (blocks) and `codes` (blocks, bytes)."""
        # Two reductions are faster than one over magnitudes, which would have to be written first.
        torch.amax(values, 1, out=scales)
        torch.maximum(scales, values.amin(1).neg_(), out=scales)
        # By a tensor: by a number, an accelerator multiplies with its reciprocal and rounds otherwise than a CPU does.
        scales.clamp_(max=LARGEST).div_(scales.new_tensor(STEPS[self.bits]))
        scales.masked_fill_(scales < LEAST_SCALE, 0.0)
        # Divided by, because the reciprocals of the largest scales are subnormal.
        divisors = scales.masked_fill(scales == 0, math.inf).unsqueeze_(1)
        if self.bits == 2:
            quotients = values.div(divisors.mul_(STRETCH)).floor_()  # intervals from -2 to 1
        else:
            quotients = values.div(divisors).round_()
        # Floats convert to int8 four times as fast as to uint8.
        levels = quotients.to(torch.int8).view(torch.uint8)
        if self.bits == 8:
            codes.copy_(levels)
        else:
            self._pack(levels, codes)

    def _pack(self, levels: torch.Tensor, codes: torch.Tensor) -> None:
        """Levels as bytes, modulo 256 and overwritten, into codes of 4 or 2 bits.

        Neighbours are taken as one whole number: one product brings all their bits side by side into its highest byte,
        and nothing below overlaps, so that no carry gets there. All is contiguous and needs no strides.
        """
        if self.bits == 4:
            pairs = levels.add_(8).view(torch.int16)
            pairs.mul_(1 << 8 | 1 << 4).bitwise_right_shift_(8)
            codes.copy_(pairs)
        else:
            fours = levels.add_(2).view(torch.int32)
            fours.mul_(1 << 24 | 1 << 18 | 1 << 12 | 1 << 6).bitwise_right_shift_(24)
            codes.copy_(fours)

    def _decode_with_torch(self, scales: torch.Tensor, codes: torch.Tensor, out: torch.Tensor) -> None:
        """`scales` (blocks) and `codes` (blocks, bytes) into `out` (blocks, 128)."""
        factors = scales.unsqueeze(1)
        if self.bits == 2:
            # Levels are odd halves; twice a level is a whole number, and half a scale is exact.
            factors = factors * 0.5
        levels = codes if self.bits == 8 else self._unpack(codes)
        out.copy_(levels.view(torch.int8)).mul_(factors)

    def _unpack(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes into the levels of 4 bits, or twice those of 2 bits: bytes, modulo 256."""
        levels = codes.new_empty(len(codes), BLOCK)
        if self.bits == 4:
            pairs = levels.view(torch.int16).copy_(codes)
            pairs.bitwise_or_(pairs << 4).bitwise_and_(0x0F0F)
            return levels.sub_(8)
        # As in `_pack`, bits move apart by products in which nothing overlaps.
        fours = levels.view(torch.int32).copy_(codes)
        fours.mul_(1 << 12 | 1).bitwise_and_(0x000F000F)
        fours.mul_(1 << 6 | 1).bitwise_and_(0x03030303)
        return levels.mul_(2).sub_(3)
