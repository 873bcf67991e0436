# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What "auto" finds and makes of long lines: `python -m benchmarks.long_lines [--lines 75,0 75,0.1] [--package PATH]`.

Steps of a known length (`geo_accel.testing.pace_worker`) on two emulated sites, for each line a one-way latency in ms
and a loss in percent. Efficiency is the steps' own time over what they took, once with and once without the steps
before the plan. `--package` runs another checkout's geo_accel, to compare with. Writes runs/long_lines/results.json.
"""

import argparse
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from geo_accel.testing import pace_worker

RESULTS = Path("runs/long_lines")
LINES = ("0,0", "25,0", "75,0", "150,0", "25,0.1", "75,0.1", "150,0.1")
STEP_S, VALUES, MBPS = 0.3, 4_000_000, 100
LIMIT_S = 400


def main() -> int:
    """Runs every line once; returns the exit code: 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", nargs="+", default=LINES, metavar="MS,PERCENT")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--config", default="{}", help="the geo_accel block as JSON")
    parser.add_argument("--package", type=Path, default=Path(), help="a checkout (default: this one)")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = {}
    for line in options.lines:
        latency_ms, loss_percent = line.split(",")
        folder = (RESULTS / f"{latency_ms}-{loss_percent}").resolve()
        # The lab is always this checkout's.
        command = [sys.executable, "-m", "geo_accel.commands.main", "lab", "--bandwidth-mbps", str(MBPS)]
        command += ["--latency-ms", latency_ms, "--loss-percent", loss_percent, "--", "env"]
        command += [f"PYTHONPATH={options.package.resolve()}", sys.executable, pace_worker.__file__]
        command += ["--steps", str(options.steps), "--step-s", str(STEP_S), "--values", str(VALUES)]
        command += ["--out", str(folder), "--config", options.config]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False
        )
        if done.returncode != 0:
            print(done.stdout.decode(errors="replace")[-3000:], file=sys.stderr)
            return 1
        results[line] = summary(json.loads((folder / "rank-0.json").read_text()))
    (RESULTS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    show(results)
    return 0


def summary(record: dict) -> dict:
    """Figures of one run."""
    boundaries, geo = record["boundaries"], record["summary"]
    steps = [b - a for a, b in pairwise(boundaries)]
    planned = geo["plans"][0]["step"]
    link = geo["profile"]["links"][0] if geo["profile"] else None
    return {
        "total_s": boundaries[-1] - record["began"],
        "efficiency": STEP_S * len(boundaries) / (boundaries[-1] - record["began"]),
        "efficiency_planned": STEP_S * len(steps[planned:]) / sum(steps[planned:]),
        "start_to_plan_s": geo.get("start_to_plan_s"),
        "measuring_s": geo.get("measuring_s"),
        "plans": geo["plans"],
        "link": link,
        "exposed_s": geo["exposed_s"],
    }


def show(results: dict[str, dict]) -> None:
    """One row for each line."""
    table = Table(title=f"{MBPS} Mbit/s, steps of {STEP_S} s, {VALUES / 1e6:g} M values", title_justify="left")
    for heading in (
        "one way ms",
        "loss %",
        "plans: H, codec, delay",
        "why",
        "s to plan",
        "all",
        "efficiency",
        "total s",
    ):
        table.add_column(heading)
    for line, found in results.items():
        plans = "; ".join(f"{plan['period']}, {plan['codec']}, {plan['delay']}" for plan in found["plans"])
        to_plan = found["start_to_plan_s"]
        table.add_row(
            *line.split(","),
            plans,
            found["plans"][0]["reason"].split(":")[0],
            f"{to_plan:.1f}" if to_plan is not None else "",
            f"{found['efficiency']:.3f}",
            f"{found['efficiency_planned']:.3f}",
            f"{found['total_s']:.1f}",
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    sys.exit(main())
