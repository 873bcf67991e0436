# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What each method costs in loss: `python -m benchmarks.loss`.

Trains a GPT-2 of 0.8 M parameters on bytes with two and four real processes: every method at every learning rate, then
with other seeds at its best. Writes runs/loss/results.json, table.md and pictures. `--only clock` compares
geo_accel with everything "auto" and DDP over an emulated WAN, in loss and in seconds. A finished run is kept and not
made again, so the command may be stopped at any time and goes on where it was. `--penalty FILE` writes the planner's
penalty table from the results that there are. Exits with 1 where nothing could be run, 2 for wrong arguments, 130
after Ctrl-C.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.loss.campaign import Campaign
from benchmarks.loss.cases import large_parts, parts, quick_parts
from benchmarks.loss.figures import Row, make_rows
from benchmarks.loss.penalty import penalty_table
from benchmarks.loss.provenance import provenance
from benchmarks.loss.setting import FULL
from benchmarks.loss.store import RunFailed, Store
from benchmarks.loss.studies import LARGE_STUDY, QUICK_STUDY, SMALL_STUDY, Study
from benchmarks.loss.tables import HEADINGS, cells, title
from benchmarks.tables import as_markdown, as_table
from geo_accel.lab import why_unavailable
from geo_accel.profile.device import DEVICES, choose_device

RESULTS = Path("runs/loss")
_CLOCKS = {"clock": "finetune", "clock-scratch": "scratch"}
_ALL = (*parts(), *large_parts(), *_CLOCKS)
_QUICK_MINUTES = 4.8


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing and reports what there is; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a first impression in five minutes: one seed, short runs"
    )
    parser.add_argument("--only", nargs="+", choices=_ALL, metavar="PART", help=f"of {', '.join(_ALL)}")
    parser.add_argument("--minutes", type=float, metavar="M", help="start nothing new after M minutes; 0 only reports")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: an accelerator where there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE too")
    parser.add_argument(
        "--penalty", type=Path, metavar="FILE", help="write the penalty table to FILE, and run nothing"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help=f"default: {RESULTS}")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _measure(options, Console())
    except (RunFailed, ValueError, OSError) as error:
        print(f"loss: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("loss: stopped; finished runs are kept", file=sys.stderr)
        return 128 + signal.SIGINT


def _measure(options: argparse.Namespace, console: Console) -> int:
    clocks = [task for name, task in _CLOCKS.items() if name in (options.only or ())]
    if clocks:
        return _clocks(options, clocks, console)
    if options.penalty is not None:
        return _write_penalties(options, console)
    began, device = time.monotonic(), choose_device(options.device).type
    studies = [
        replace(study, parts=asked)
        for study in ((QUICK_STUDY,) if options.quick else (SMALL_STUDY, LARGE_STUDY))
        if (asked := {name: own for name, own in study.parts.items() if not options.only or name in options.only})
    ]
    if not studies:
        raise ValueError(f"--only {' '.join(options.only)}: --quick has only {', '.join(quick_parts())}.")
    results, complete = [], True
    for study in studies:
        store, material = study.store(options.results, console, device)
        minutes = _QUICK_MINUTES if options.quick and options.minutes is None else options.minutes
        if minutes is not None:
            minutes = max(0.0, minutes - (time.monotonic() - began) / 60)
        campaign = Campaign(store, material, console, seeds=study.seeds, minutes=minutes, device=device)
        campaign.run(study.parts)
        complete = complete and campaign.complete
        rows = make_rows(study.parts, store, study.seeds, campaign.left_out)
        if rows:
            results.append(_report(options, study, rows, store, console))
    if not results:
        raise ValueError("there are no results yet: give it more --minutes.")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if not complete:
        console.print("the time was over before everything was run: the same command goes on from here")
    return 0


def _write_penalties(options: argparse.Namespace, console: Console) -> int:
    rows = []
    for study in (SMALL_STUDY, LARGE_STUDY):
        store, _ = study.store(options.results, console)
        rows.append(make_rows(study.parts, store, study.seeds))
    fewest = min((len(row.gaps) for own in rows for row in own if row.gaps), default=0)
    devices = sorted({device for own in rows for row in own for device in row.devices})
    place = provenance(FULL, fewest, "python -m benchmarks.loss") | {"devices": devices}
    table = penalty_table(*rows, place)
    options.penalty.write_text(json.dumps(table, indent=1) + "\n")
    console.print(f"{options.penalty} written: {len(table['base'])} pairs of period and outer step")
    return 0


def _clocks(options: argparse.Namespace, tasks: Sequence[str], console: Console) -> int:
    from benchmarks.loss.clock.course import clock

    if options.quick or len(options.only) > len(tasks):
        raise ValueError(f"--only {' or '.join(_CLOCKS)}: not together with --quick or other parts.")
    if options.device == "cuda":
        raise ValueError(f"--only {' or '.join(_CLOCKS)}: runs in the lab, on CPUs; leave --device out.")
    reason = why_unavailable()
    if reason is not None:
        raise ValueError(f"this machine cannot emulate a network, and nothing is faked: {reason}")
    summaries = [clock(task, options.results, console, options.minutes) for task in tasks]
    if options.json is not None:
        options.json.write_text(json.dumps(summaries, indent=1) + "\n")
    return 0


def _report(options: argparse.Namespace, study: Study, rows: Sequence[Row], store: Store, console: Console) -> dict:
    """Prints, draws and writes a study's rows; returns what is in its results.json."""
    from benchmarks.loss.drawing import draw  # matplotlib is not needed before

    folder = options.results / study.folder
    folder.mkdir(parents=True, exist_ok=True)
    markdown = []
    for part in dict.fromkeys(row.part for row in rows):
        own = [row for row in rows if row.part == part]
        body = [cells(row) for row in own]
        console.print(as_table(title(own[0]), HEADINGS, body, "case"))
        markdown.append(f"**{title(own[0])}**\n\n{as_markdown(HEADINGS, body)}")
    states = {state for row in rows for state in row.code}
    if len(states) > 1:
        console.print(f"note: geo_accel's code changed between runs, {len(states)} states are mixed (see code by row)")
    devices = {device for row in rows for device in row.devices}
    if len(devices) > 1:
        console.print(f"note: runs of several devices are mixed: {', '.join(sorted(devices))}")
    results = {
        "provenance": provenance(
            study.setting, study.seeds, "python -m benchmarks.loss" + (" --quick" if options.quick else "")
        ),
        "rows": [row.to_dict() for row in rows],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "table.md").write_text("\n".join(markdown))
    pictures = draw(folder, rows, store, study.seeds)
    written = [folder / "results.json", folder / "table.md", *pictures]
    console.print(f"written: {', '.join(map(str, written))}", highlight=False)
    return results


if __name__ == "__main__":
    sys.exit(main())
