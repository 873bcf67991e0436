# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Four sites with unequal links, and compression that follows them: `python -m benchmarks.unequal`.

Uplinks of 100, 50, 20 and 100 Mbit/s; once the downlinks are as slow, once they are fast. Every method fine-tunes
the small GPT-2 of `benchmarks.loss`, each site on its own kind of text, in the emulated WAN, for several numbers of
steps: held-out loss of the averaged model against seconds, how long a method takes to the loss that the baseline ends
with, and when each site has sent its share of a round. The baseline is one top-k ratio everywhere without feedback,
in blocking rounds, trained six times as long as the longest runs of the others; "auto", int8 and int4 are repeated
with other seeds. Writes results.json, table.md and unequal.png below runs/unequal. Exits with 1 where a run failed.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.kit.environment import steady
from benchmarks.loss.material import make_material
from benchmarks.loss.setting import FULL
from benchmarks.tables import as_markdown, as_table
from benchmarks.unequal.drawing import draw
from benchmarks.unequal.figures import HEADINGS, cells, compare, recordings
from benchmarks.unequal.setting import METHODS, SCENARIOS, STEPS, UPLINKS, seeds_of, shares_of
from geo_accel.lab import Lab, make_sites, why_unavailable

RESULTS, MATERIAL = Path("runs/unequal"), Path("runs/loss")
LEAST_STEPS = 480
"""Of the baseline: "auto" plans after ten steps, in the shortest runs too."""
_TIMEOUT_S = 7200.0


def main(arguments: list[str] | None = None) -> int:
    """Runs both scenarios, or the one asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SCENARIOS, help="run this one, and report the other as it was last found")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the baseline; default: {STEPS}")
    options = parser.parse_args(arguments)
    if options.steps < LEAST_STEPS:
        parser.error(f"--steps {options.steps}: must be at least {LEAST_STEPS}.")
    reason = why_unavailable()
    if reason is not None:
        print(f"unequal: this machine cannot emulate a network, and nothing is faked: {reason}", file=sys.stderr)
        return 1
    console = Console()
    with console.status("texts and pretrained weights"):
        material = make_material(FULL, MATERIAL).resolve()
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as bars:
        for scenario in [options.only] if options.only else SCENARIOS:
            folder = _folder(scenario).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            for before in folder.glob("rank-*.json"):
                before.unlink()
            bar = bars.add_task(scenario, total=sum(seeds_of(one) * len(shares_of(one)) for one in METHODS))
            result = Lab(
                [sys.executable, "-m", "benchmarks.unequal.worker", str(material), str(folder), str(options.steps)],
                make_sites(len(UPLINKS), bandwidth_mbps=UPLINKS, downlink_mbps=SCENARIOS[scenario]),
                env=steady(),
            ).run(
                timeout_s=_TIMEOUT_S,
                on_output=lambda site, piece, bar=bar: bars.advance(bar, piece.count(b"run done") / len(UPLINKS)),
            )
            if result.exit_code or result.stopped_by:
                print(f"{scenario} failed: {[site.exit_code for site in result.sites]}", file=sys.stderr)
                print(result.sites[0].output[-2000:], file=sys.stderr)
                return 1
    found = {scenario: recordings(_folder(scenario)) for scenario in SCENARIOS}
    by_scenario = {scenario: compare(sites) for scenario, sites in found.items() if sites is not None}
    (RESULTS / "results.json").write_text(json.dumps(by_scenario, indent=1) + "\n")
    markdown = []
    for scenario, rows in by_scenario.items():
        body = [cells(row) for row in rows]
        console.print(as_table(f"four sites, {scenario}", HEADINGS, body, "method"))
        markdown.append(f"**{scenario.capitalize()}**\n\n{as_markdown(HEADINGS, body)}")
    (RESULTS / "table.md").write_text("\n".join(markdown))
    draw(RESULTS / "unequal.png", by_scenario)
    console.print(f"written to {RESULTS}: results.json, table.md, unequal.png", highlight=False)
    return 0


def _folder(scenario: str) -> Path:
    return RESULTS / scenario.replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
