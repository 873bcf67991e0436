# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What "auto" finds and makes of long lines: `python -m benchmarks.long_lines [--lines 75,0 75,0.1] [--jobs]`.

Steps of a known length (`tests.workers.pace_worker`) on two emulated sites, for each line a one-way latency in ms
and a loss in percent. Efficiency is the steps' length over what they took; with the plan, what the worker itself adds
to a step counts as the step's. Writes runs/long_lines/results.json and table.md.
"""

import argparse
import json
import sys
from itertools import pairwise

from rich.console import Console

from benchmarks.kit.report import Table, report
from benchmarks.kit.runner import steady
from benchmarks.kit.study import RESULTS
from geo_accel.lab import run_sites
from tests.workers import pace_worker

LINES = ("0,0", "25,0", "75,0", "150,0", "25,0.1", "75,0.1", "150,0.1")
STEP_S, VALUES, MBPS = 0.3, 4_000_000, 100
LIMIT_S = 400
COLUMNS = {
    "one way ms": "{latency_ms:g}",
    "loss %": "{loss_percent:g}",
    "plans: H, codec, delay": "{plans}",
    "link Mbit/s": "{link_mbps:.1f}",
    "s to plan": "{start_to_plan_s:.1f}",
    "s of measuring": "{measuring_s:.1f}",
    "efficiency": "{efficiency:.3f}",
    "with the plan": "{efficiency_planned:.3f}",
    "total s": "{total_s:.1f}",
}


def main() -> int:
    """Runs every line once; returns the exit code: 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", nargs="+", default=LINES, metavar="MS,PERCENT")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--config", default="{}", help="the geo_accel block as JSON")
    parser.add_argument("--jobs", action="store_true", help="a job per site, over TLS links")
    options = parser.parse_args()
    rows = []
    for line in options.lines:
        latency_ms, loss_percent = map(float, line.split(","))
        folder = (RESULTS / "long_lines" / line).resolve()
        command = [sys.executable, "-m", pace_worker.__name__, "--steps", str(options.steps), "--step-s", str(STEP_S)]
        command += ["--values", str(VALUES), "--out", str(folder), "--config", options.config]
        link = {"bandwidth_mbps": MBPS, "latency_ms": latency_ms, "loss_percent": loss_percent}
        result = run_sites(command, env=steady(), timeout_s=LIMIT_S, jobs=options.jobs, **link)
        if result.exit_code or result.stopped_by:
            print(result.sites[0].output[-3000:], file=sys.stderr)
            return 1
        rows.append(link | summary(json.loads((folder / "rank-0.json").read_text())))
    table = Table(f"{MBPS} Mbit/s, steps of {STEP_S} s, {VALUES / 1e6:g} M values", COLUMNS, rows)
    report(RESULTS / "long_lines", rows, [table], Console(width=180))
    return 0


def summary(record: dict) -> dict:
    """Figures of one run."""
    boundaries, geo = record["boundaries"], record["summary"]
    steps = [b - a for a, b in pairwise(boundaries)]
    planned, total_s = geo["plans"][0]["step"], boundaries[-1] - record["began"]
    return {
        "total_s": total_s,
        "efficiency": STEP_S * len(boundaries) / total_s,
        "efficiency_planned": geo["profile"]["step_s"] * len(steps[planned:]) / sum(steps[planned:]),
        **{key: geo.get(key) for key in ("start_to_plan_s", "measuring_s", "exposed_s", "link_mbps")},
        "plans": "; ".join(f"{plan['period']}, {plan['codec']}, {plan['delay']}" for plan in geo["plans"]),
        "all_plans": geo["plans"],
        "link": geo["profile"]["links"][0] if geo["profile"] else None,
    }


if __name__ == "__main__":
    sys.exit(main())
