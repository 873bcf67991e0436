# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How fast codecs are on one core: `python -m benchmarks.codecs`.

Encodes and decodes 8 Mi normally distributed values in chunks as `geo_accel.rounds.exchange` does, on one thread,
and copies them on the same core. Codecs take turns, so that a machine whose speed drifts is the same for all.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.tables import as_markdown, as_table
from geo_accel.config import DENSE_CODECS, SPARSE_CHUNK
from geo_accel.rounds.exchange import CHUNK
from geo_accel.wire.codec import get_codec

HEADINGS = ("codec", "bits per value", "encode GB/s", "decode GB/s", "copy GB/s")
CASES = [*((name, 0) for name in DENSE_CODECS), *(("topk", kept) for kept in (4, 41, 205, 410)), ("randk", 41)]
"""Codecs and, of sparse ones, how many of 4096 values they keep."""
_CHUNKS = 16
_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Speed:
    """A codec's figures: bits on the wire per value, and fp32 bytes per second, a median of all rounds."""

    codec: str
    kept: int
    bits: float
    encode: float | None
    """None where the payload is the values themselves."""
    decode: float
    copy: float
    """Of a plain copy in the same rounds."""

    def cells(self) -> list[str]:
        """One row of the table."""
        name = f"{self.codec}, {self.kept} of {SPARSE_CHUNK}" if self.kept else self.codec
        figures = ("–" if rate is None else f"{rate / 1e9:.2f}" for rate in (self.encode, self.decode, self.copy))
        return [name, f"{self.bits:.3g}", *figures]


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints the table; returns the exit code, always 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, in bytes per second, to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N", help="rounds to take medians of")
    parser.add_argument("--chunks", type=int, default=_CHUNKS, metavar="N", help=f"chunks of {CHUNK} values")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.chunks < 1:
        parser.error("--rounds and --chunks must be at least 1")
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task("encoding and decoding", total=options.rounds * len(CASES))
            speeds = measure(options.rounds, options.chunks, lambda: bars.advance(bar))
    finally:
        torch.set_num_threads(threads)
    rows = [speed.cells() for speed in speeds]
    if options.markdown:
        print(as_markdown(HEADINGS, rows), end="")
    else:
        console.print(as_table("one core; speeds in fp32 bytes", HEADINGS, rows, "codec"))
    if options.json is not None:
        record = [{name: getattr(speed, name) for name in Speed.__slots__} for speed in speeds]
        options.json.write_text(json.dumps({"processor": processor(), "speeds": record}, indent=1) + "\n")
    return 0


def measure(rounds: int, chunks: int, advance: Callable[[], object]) -> list[Speed]:
    """Every codec's figures; `advance` is called after each codec of each round."""
    numel = chunks * CHUNK
    values = torch.randn(numel, generator=torch.Generator().manual_seed(0))
    other, heard = torch.zeros(numel), torch.zeros(CHUNK)
    payloads = {case: torch.zeros(chunks, get_codec(*case).encoded_bytes(CHUNK), dtype=torch.uint8) for case in CASES}
    copied: list[float] = []
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {case: [] for case in CASES}
    for turn in range(rounds + 1):
        copied.append(_seconds(lambda: other.copy_(values)))
        for case, payload in payloads.items():
            # A new seed in every round, as in training, so that drawing the places counts.
            codec = get_codec(*case, seed=turn)

            def encode(codec=codec, payload=payload) -> None:
                for part, out in zip(values.split(CHUNK), payload, strict=True):
                    codec.encode(part, out)

            def decode(codec=codec, payload=payload) -> None:
                for one in payload:
                    codec.decode(one, heard)

            seconds[case].append((_seconds(encode), _seconds(decode)))
            if turn:
                advance()
    # The first round pays for memory that nobody has touched yet.
    return [
        Speed(
            codec=name,
            kept=kept,
            bits=8 * payload.numel() / numel,
            encode=None
            if get_codec(name, kept).lossless
            else 4 * numel / median(pair[0] for pair in seconds[name, kept][1:]),
            decode=4 * numel / median(pair[1] for pair in seconds[name, kept][1:]),
            copy=4 * numel / median(copied[1:]),
        )
        for (name, kept), payload in payloads.items()
    ]


def processor() -> str:
    """The processor's name as Linux gives it, or "unknown"."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _seconds(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
