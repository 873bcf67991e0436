# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Loops of "topk" for CPUs, compiled by numba: which values are the largest, and where they are as bytes.

Choosing takes most of the time. Magnitudes are ordered as their bits are, so the smallest that is sent is found digit
by digit, by counting, in a time that hardly depends on how many are sent: with `torch.topk`, half of the values took
eight times as long.
"""

import numpy as np
from numpy import ndarray

from geo_accel.wire.kernels import WITHOUT_SIGN, compiled


@compiled("UniTuple(i4, 2)(i4[::1], i8, i4[::1], i4[::1])")
def _least(patterns: ndarray, kept: int, magnitudes: ndarray, counts: ndarray) -> tuple:
    """The `kept`-th largest magnitude of `patterns`, as bits, and how many that are equal to it are among the `kept`.

    `magnitudes`, as long as `patterns`, and `counts`, 2048 long, are overwritten.
    """
    highest = np.int32(0)
    for i in range(len(patterns)):
        magnitudes[i] = patterns[i] & WITHOUT_SIGN
        highest = max(highest, magnitudes[i])
    wanted, size, least = kept, len(patterns), np.int32(0)
    # Three digits of 11, 10 and 10 bits: after each, only magnitudes with the same digits so far are looked at.
    for shift in (20, 10, 0):
        mask = 2047 if shift == 20 else 1023
        digit = highest >> 20 if shift == 20 else np.int32(1023)
        counts[: digit + 1] = 0
        for i in range(size):
            counts[magnitudes[i] >> shift & mask] += 1
        while counts[digit] < wanted:
            wanted -= counts[digit]
            digit -= 1
        least |= digit << shift
        found = 0
        for i in range(size):
            one = magnitudes[i]
            magnitudes[found] = one
            found += (one >> shift & mask) == digit
        size = found
    return least, np.int32(wanted)


@compiled("void(f4[:, ::1], f4[:, ::1], u1[::1], b1)")
def choose(values: ndarray, picked: ndarray, places: ndarray, as_bits: bool) -> None:
    """The largest magnitudes of each row of `values` (rows, width) into `picked` (rows, kept), in their order.

    Of equal magnitudes the first ones are taken. Where they were goes into `places`, in the payload's form: `as_bits`,
    one for every value, or else 12 bits each.
    """
    rows, width = values.shape
    kept, line = picked.shape[1], (width + 7) // 8
    magnitudes, counts = np.zeros(width, np.int32), np.zeros(2048, np.int32)
    chosen = np.zeros(width + 1, np.int32)
    places[:] = 0
    for row in range(rows):
        patterns = values[row].view(np.int32)
        least, ties = _least(patterns, kept, magnitudes, counts)
        # Without branches, which nobody could predict: what is not chosen is overwritten by the next one.
        count = 0
        for i in range(width):
            one = patterns[i] & WITHOUT_SIGN
            tie = one == least
            chosen[count] = i
            count += (one > least) | (tie & (ties > 0))
            ties -= tie
        for k in range(kept):
            picked[row, k] = values[row, chosen[k]]
        if as_bits:
            bit, first = 0, 0
            for k in range(kept):
                while chosen[k] >= first + line:
                    bit += 1
                    first += line
                places[row * line + chosen[k] - first] |= np.uint8(1 << bit)
        else:
            for k in range(kept):
                number, place = row * kept + k, chosen[k]
                at = number // 2 * 3
                if number % 2 == 0:
                    places[at] = place & 255
                    places[at + 1] = place >> 8
                else:
                    places[at + 1] |= (place & 15) << 4
                    places[at + 2] = place >> 4


@compiled("b1(f4[::1], u1[::1], f4[:, ::1], b1)")
def spread(picked: ndarray, places: ndarray, out: ndarray, as_bits: bool) -> bool:
    """`picked` (rows * kept) to their `places` in `out` (rows, width), which is 0 elsewhere.

    Returns False, and stops, for a place beyond a row, which is memory that belongs to something else.
    """
    rows, width = out.shape
    line = (width + 7) // 8
    if as_bits:
        # As whole numbers, where a 0 is a 0 and no product of one with something negative.
        patterns, written = picked.view(np.int32), out.view(np.int32)
        done, last = 0, len(picked) - 1
        for row in range(rows):
            for bit in range(8):
                first = bit * line
                for i in range(min(line, width - first)):
                    sent = np.int32(places[row * line + i] >> bit & 1)
                    written[row, first + i] = patterns[min(done, last)] & -sent
                    done += sent
    else:
        kept = len(picked) // rows
        out[:] = 0
        for number in range(len(picked)):
            at = number // 2 * 3
            if number % 2 == 0:
                place = np.int32(places[at]) | (np.int32(places[at + 1]) & 15) << 8
            else:
                place = np.int32(places[at + 1]) >> 4 | np.int32(places[at + 2]) << 4
            if place >= width:
                return False
            out[number // kept, place] = picked[number]
    return True
