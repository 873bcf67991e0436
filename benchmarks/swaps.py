# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What lines carry, and what carrying costs: `python -m benchmarks.swaps [--before CHECKOUT] [--turns 3]`.

Two emulated sites at 100 Mbit/s swap the demo's model (8.4 M values in fp32, whole and a quarter) over links (TLS),
gloo (with `--before` another checkout's) and one plain connection, in turns. Writes runs/swaps/results.json, table.md.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from statistics import median

from rich.console import Console

from benchmarks.kit.report import Table, goal, goals_table, report
from benchmarks.kit.runner import steady
from benchmarks.kit.study import RESULTS
from geo_accel.lab import run_sites
from tests.workers import swap_worker

MBPS, WHOLE, QUARTER = 100, 33_600_000, 8_400_000
ALL = ("links", "gloo", "plain")
LINES = {
    "clean": ((0, 0), QUARTER, 6, ALL),
    "50 ms, 0.1 % lost": ((25, 0.1), QUARTER, 3, ALL),
    "50 ms, 1 % lost": ((25, 1), QUARTER, 1, ALL[:2]),
    "150 ms": ((75, 0), QUARTER, 6, ALL),
    "150 ms, whole model": ((75, 0), WHOLE, 2, ALL),
}
"""By name one-way latency in ms and loss in percent, bytes, swaps, and whoever takes turns on it."""
COLUMNS = {
    "line (round trip)": "{line}",
    "over": "{kind}",
    "Mbit/s": "{mbps:.1f}",
    "processor s per GB": "{cpu_s:.1f}",
}


def run(name: str, kind: str, package: Path, out: Path) -> dict:
    """One launch: `mbps` that arrive in each direction, a median of swaps, and processor seconds of one site per GB
    that it sent, having received as much."""
    (latency_ms, loss_percent), nbytes, count, _ = LINES[name]
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, swap_worker.__file__, "--nbytes", str(nbytes), "--count", str(count), "--out", str(out)]
    command += ["--plain"] * (kind == "plain")
    link = {"bandwidth_mbps": MBPS, "latency_ms": latency_ms, "loss_percent": loss_percent}
    environ = steady(PYTHONPATH=str(package.resolve()))
    result = run_sites(command, env=environ, timeout_s=300, jobs=kind == "links", **link)
    if result.exit_code or result.stopped_by:
        raise RuntimeError(f"{name}, {kind}: {result.stopped_by or result.sites[0].output[-2000:]}")
    seen = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]
    seconds = median(second for one in seen for second in one["seconds"][1:])
    return {"mbps": 8e-6 * nbytes / seconds, "cpu_s": sum(one["processor_s"] for one in seen) / 2e-9 / nbytes / count}


def main() -> int:
    """Runs every line in turns; returns the exit code: 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, default=Path(), help="a checkout whose gloo is used")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for name, (*_, kinds) in LINES.items():
        seen: dict[str, list[dict]] = {kind: [] for kind in kinds}
        for turn in range(options.turns):
            for kind in kinds if turn % 2 else reversed(kinds):
                package = options.before if kind == "gloo" else Path()
                seen[kind].append(run(name, kind, package, (RESULTS / "swaps" / kind).resolve()))
        for kind, some in seen.items():
            middle = {figure: median(one[figure] for one in some) for figure in some[0]}
            rows.append({"line": name, "kind": kind, **middle})
    mbps = {(row["line"], row["kind"]): row["mbps"] for row in rows}
    goals = [
        goal(f"times gloo, {line}", least, mbps[line, "links"] / mbps[line, "gloo"])
        for line, least in {"50 ms, 0.1 % lost": 5.0, "50 ms, 1 % lost": 8.0}.items()
    ]
    share = mbps["150 ms, whole model", "links"] / mbps["clean", "plain"]
    goals.append(goal("150 ms: share of what passes without latency", 0.9, share))
    tables = [Table(f"{MBPS} Mbit/s, two sites", COLUMNS, rows), goals_table("what was promised", goals)]
    report(RESULTS / "swaps", rows, tables, Console(width=150))
    return 0 if all(one["held"] for one in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
