# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Loops of the quantised codecs for CPUs, compiled by numba: bit for bit what torch's operations compute elsewhere.

On a CPU most of what a round takes from training is memory: with torch's operations a value goes through it ten times,
here once each way.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numba import njit
from numpy import ndarray

F = TypeVar("F", bound=Callable)

BLOCK = 128
"""Values that share an fp32 scale, which adds 32 / 128 = 0.25 bits to each."""

STEPS = {8: 127.0, 4: 7.0, 2: 2.0}
"""By bits, scales in a block's largest magnitude."""

LEAST_SCALE = 1e-36
"""Smaller scales are sent as 0, and with them their block: what is decoded is never subnormal, which some processors
flush to 0, so that sites would disagree."""

LARGEST = 3.402823e38
"""The few numbers above it count as it: rounded up, the top level times its scale would be infinite."""

STRETCH = 1 + 2**-22
"""Not quite the scale divides values to be of 2 bits, so that the largest is not at 2, which would be a fifth
interval."""

_LARGEST, _LEAST_SCALE, _STRETCH = np.float32(LARGEST), np.float32(LEAST_SCALE), np.float32(STRETCH)
_STEPS_8, _STEPS_4, _STEPS_2 = (np.float32(STEPS[bits]) for bits in (8, 4, 2))
_INFINITE, _ZERO, _HALF = np.float32(np.inf), np.float32(0), np.float32(0.5)
WITHOUT_SIGN, _NOT_FINITE = np.int32(0x7FFFFFFF), np.int32(0x7F800000)


def compiled(signature: str) -> Callable[[F], F]:
    """Compiled when first imported, and kept beside the module or in the user's cache; without Python's lock."""
    # pyrefly: ignore[bad-return] (by numba's own types it is no longer a function)
    return njit(signature, nogil=True, cache=True, error_model="numpy")


@compiled("i8(f4[::1], f4[::1], f4[::1], u1[::1], i8)")
def encode(values: ndarray, base: ndarray, scales: ndarray, codes: ndarray, bits: int) -> int:
    """`values` (n * 128 fp32) minus `base` (as many, or none) into `scales` (n) and `codes` (n * 16 * bits).

    Returns the first block with a value that is not finite, at which it ends, or -1.
    """
    steps = _STEPS_8 if bits == 8 else _STEPS_4 if bits == 4 else _STEPS_2
    largest = np.zeros(1, np.int32)
    levels = np.zeros(BLOCK, np.uint8)
    change = np.zeros(BLOCK, np.float32)
    patterns = change.view(np.int32)
    for block in range(len(scales)):
        begin = block * BLOCK
        if len(base) == 0:
            for i in range(BLOCK):
                change[i] = values[begin + i]
        else:
            for i in range(BLOCK):
                change[i] = values[begin + i] - base[begin + i]
        # Magnitudes are ordered as their bits are, and whole numbers compare many at a time.
        most = np.int32(0)
        for i in range(BLOCK):
            most = max(most, patterns[i] & WITHOUT_SIGN)
        if most >= _NOT_FINITE:
            return block
        largest[0] = most
        scale = min(largest.view(np.float32)[0], _LARGEST) / steps
        if scale < _LEAST_SCALE:
            scale = _ZERO
        scales[block] = scale
        divisor = scale if scale > _ZERO else _INFINITE
        if bits == 8:
            for i in range(BLOCK):
                levels[i] = np.uint8(np.int32(np.rint(change[i] / divisor)))
            for i in range(BLOCK):
                codes[begin + i] = levels[i]
        elif bits == 4:
            for i in range(BLOCK):
                levels[i] = np.uint8(np.int32(np.rint(change[i] / divisor)) + 8)
            for i in range(BLOCK // 2):
                codes[block * (BLOCK // 2) + i] = levels[2 * i] | levels[2 * i + 1] << 4
        else:
            divisor *= _STRETCH
            for i in range(BLOCK):
                levels[i] = np.uint8(np.int32(np.floor(change[i] / divisor)) + 2)
            for i in range(BLOCK // 4):
                low = levels[4 * i] | levels[4 * i + 1] << 2
                high = levels[4 * i + 2] | levels[4 * i + 3] << 2
                codes[block * (BLOCK // 4) + i] = low | high << 4
    return -1


@njit(nogil=True, error_model="numpy", inline="always")
def _decode_block(scale: np.float32, codes: ndarray, bits: int, out: ndarray) -> None:
    """A block's codes into its 128 values."""
    if bits == 8:
        for i in range(BLOCK):
            out[i] = np.float32(np.int8(codes[i])) * scale
    elif bits == 4:
        for i in range(BLOCK // 2):
            pair = codes[i]
            out[2 * i] = np.float32(np.int32(pair & 15) - 8) * scale
            out[2 * i + 1] = np.float32(np.int32(pair >> 4) - 8) * scale
    else:
        half = scale * _HALF
        for i in range(BLOCK // 4):
            four = np.int32(codes[i])
            out[4 * i] = np.float32((four & 3) * 2 - 3) * half
            out[4 * i + 1] = np.float32((four >> 2 & 3) * 2 - 3) * half
            out[4 * i + 2] = np.float32((four >> 4 & 3) * 2 - 3) * half
            out[4 * i + 3] = np.float32((four >> 6) * 2 - 3) * half


@compiled("void(f4[::1], u1[::1], f4[::1], i8)")
def decode(scales: ndarray, codes: ndarray, out: ndarray, bits: int) -> None:
    """`scales` (n) and `codes` (n * 16 * bits) into `out` (n * 128 fp32)."""
    width = BLOCK // 8 * bits
    for block in range(len(scales)):
        own = codes[block * width : (block + 1) * width]
        _decode_block(scales[block], own, bits, out[block * BLOCK : (block + 1) * BLOCK])


@compiled("void(u1[::1], i8, i8, u1[::1], i8, i8, f4[::1], f4[::1])")
def settle_coded(
    heard: ndarray, sites: int, stride: int, said: ndarray, bits: int, at: int, anchor: ndarray, weights: ndarray
) -> None:
    """`decode` of what was heard, its mean and `settle` in one pass, to the same bits as one after the other.

    `heard` has the payloads of `sites` sites, `stride` bytes apart, which are as long as `said`, this site's own; all
    lengths are multiples of 4. `anchor` and `weights` (n fp32) are elements `at` to `at` + n of the payloads'.
    """
    width = BLOCK // 8 * bits
    blocks = len(said) // (4 + width)
    count, length = np.float32(sites), len(anchor)
    scales, own_scales = heard.view(np.float32), said.view(np.float32)
    mean, mine, other = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.float32)
    for block in range(at // BLOCK, (at + length + BLOCK - 1) // BLOCK):
        first = 4 * blocks + block * width
        _decode_block(own_scales[block], said[first : first + width], bits, mine)
        _decode_block(scales[block], heard[first : first + width], bits, mean)
        for site in range(1, sites):
            codes = heard[site * stride + first : site * stride + first + width]
            _decode_block(scales[site * stride // 4 + block], codes, bits, other)
            for i in range(BLOCK):
                mean[i] += other[i]
        # In slices, because where an index might be negative, numba asks at every element, one by one.
        begin = block * BLOCK - at
        skipped, stop = max(0, -begin), min(BLOCK, length - begin)
        own_anchor, own_weights = anchor[begin + skipped : begin + stop], weights[begin + skipped : begin + stop]
        own_mean, own_said = mean[skipped:stop], mine[skipped:stop]
        for i in range(stop - skipped):
            change = own_mean[i] / count
            own_anchor[i] += change
            own_weights[i] += change - own_said[i]


@compiled("void(f4[::1], f4[::1], f4[::1], f4[::1])")
def settle(change: ndarray, said: ndarray, anchor: ndarray, weights: ndarray) -> None:
    """Adds `change` to `anchor`, and to `weights` what of it this site has not `said` already; all flat fp32."""
    for i in range(len(change)):
        anchor[i] += change[i]
        weights[i] += change[i] - said[i]
