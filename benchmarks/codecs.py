# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How fast codecs are on one core: `python -m benchmarks.codecs`.

Writes runs/codecs/results.json and table.md. Encodes and decodes 8 Mi normally distributed values in chunks as rounds
do, on one thread, and copies them on the same core. Codecs take turns: a machine may drift.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.kit.report import Table, report
from benchmarks.kit.study import RESULTS
from geo_accel.config import DENSE_CODECS, SPARSE_CHUNK
from geo_accel.rounds.exchange import CHUNK
from geo_accel.wire.codec import get_codec

COLUMNS = {
    "codec": "{name}",
    "bits per value": "{bits:.3g}",
    "encode GB/s": "{encode_gb_s:.2f}",
    "decode GB/s": "{decode_gb_s:.2f}",
    "copy GB/s": "{copy_gb_s:.2f}",
}
CASES = [*((name, 0) for name in DENSE_CODECS), *(("topk", kept) for kept in (4, 41, 205, 410)), ("randk", 41)]
"""Codecs and, of sparse ones, how many of 4096 values they keep."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes the table; returns the exit code, always 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help=f"default: {RESULTS}")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="rounds to take medians of")
    parser.add_argument("--chunks", type=int, default=16, metavar="N", help=f"chunks of {CHUNK} values")
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = measure(options.rounds, options.chunks)
    finally:
        torch.set_num_threads(threads)
    table = Table("one core; speeds in fp32 bytes", COLUMNS, rows)
    report(options.results / "codecs", rows, [table], Console())
    return 0


def measure(rounds: int, chunks: int) -> list[dict]:
    """Every codec's figures."""
    numel = chunks * CHUNK
    values = torch.randn(numel, generator=torch.Generator().manual_seed(0))
    copy, heard = torch.zeros(numel), torch.zeros(CHUNK)
    payloads = {case: torch.zeros(chunks, get_codec(*case).encoded_bytes(CHUNK), dtype=torch.uint8) for case in CASES}
    seconds: dict[tuple[str, int], list[tuple[float, float, float]]] = {case: [] for case in CASES}
    for turn in track(range(rounds + 1), "encoding and decoding", transient=True):
        for case, payload in payloads.items():
            # A new seed in every round, as in training, so that drawing the places counts.
            codec, times = get_codec(*case, seed=turn), [perf_counter()]
            for part, out in zip(values.split(CHUNK), payload, strict=True):
                codec.encode(part, out)
            times.append(perf_counter())
            for one in payload:
                codec.decode(one, heard)
            times.append(perf_counter())
            copy.copy_(values)
            times.append(perf_counter())
            seconds[case].append(tuple(b - a for a, b in pairwise(times)))
    rows = []
    for (name, kept), payload in payloads.items():
        # The first round pays for memory that nobody has touched yet.
        speeds = [4e-9 * numel / median(taken) for taken in zip(*seconds[name, kept][1:], strict=True)]
        row = {"name": f"{name}, {kept} of {SPARSE_CHUNK}" if kept else name, "bits": 8 * payload.numel() / numel}
        rows.append(row | dict(zip(("encode_gb_s", "decode_gb_s", "copy_gb_s"), speeds, strict=True)))
        if get_codec(name, kept).lossless:  # nothing is encoded where the payload is the values themselves
            rows[-1]["encode_gb_s"] = None
    return rows


if __name__ == "__main__":
    sys.exit(main())
