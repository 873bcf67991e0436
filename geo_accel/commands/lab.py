# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Runs a command on every site of an emulated WAN on this machine.

In COMMAND, {rank} stands for the number of the site from 0, {sites} for the number of sites, {master} for the
address of site 0 and {site} for the name of the site. All other braces are left alone. An example:

  geo-accel lab --sites 2 --bandwidth-mbps 100 -- python train.py --output runs/{site}

COMMAND starts a job of its own in every site. Where it mentions {master}, or with --one-job, it starts the site's part
of one job over all sites.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from geo_accel.commands.arguments import numbers
from geo_accel.lab import Lab, LabResult, LabUnavailable, make_rate_changes, make_sites
from geo_accel.lab.changes import State
from geo_accel.lab.jobs import spans
from geo_accel.lab.output import LineSplitter

NAME = "lab"
SUMMARY = "run a command on the sites of an emulated WAN"

_COLOURS = (36, 33, 35, 32, 34, 31)
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_rates = numbers("100,50,20")
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `geo-accel lab`."""
    parser.usage = "geo-accel lab [OPTIONS] -- COMMAND [ARGS ...]"
    parser.add_argument("--sites", type=int, default=2, metavar="N", help="number of sites (default: 2)")
    parser.add_argument(
        "--bandwidth-mbps",
        type=_rates,
        default=[100.0],
        metavar="R[,R...]",
        help="what a site may send, in Mbit/s; one number for all sites or one per site (default: 100)",
    )
    parser.add_argument(
        "--downlink-mbps",
        type=_rates,
        metavar="R[,R...]",
        help="what a site may receive, in Mbit/s; one number or one per site (default: no limit)",
    )
    parser.add_argument(
        "--latency-ms",
        type=_rates,
        default=[0.0],
        metavar="T[,T...]",
        help="one-way delay of what a site sends; one number or one per site (default: 0)",
    )
    parser.add_argument(
        "--loss-percent",
        type=_rates,
        default=[0.0],
        metavar="P[,P...]",
        help="share of the packets a site sends that get lost; one number or one per site (default: 0)",
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--jobs",
        action="store_true",
        help="COMMAND starts a job of its own in every site; it gets no launcher's variables, but GEO_ACCEL_SITE, "
        "GEO_ACCEL_MEET, GEO_ACCEL_KEYS and GEO_ACCEL_EXPECT, through which the jobs find each other (default, unless "
        "COMMAND mentions {master})",
    )
    ways.add_argument(
        "--one-job",
        action="store_true",
        help="COMMAND starts its site's part of one job over all sites: MASTER_ADDR and so on are set (default where "
        "COMMAND mentions {master})",
    )
    parser.add_argument(
        "--ranks-per-site",
        type=int,
        metavar="R",
        help="of one job: with 1, RANK, WORLD_SIZE and so on are set for COMMAND; with more, let it be torchrun "
        "(default: 1)",
    )
    parser.add_argument(
        "--no-shaping", action="store_true", help="run the sites on loopback, without namespaces and without limits"
    )
    parser.add_argument(
        "--nat",
        action="append",
        default=[],
        metavar="SITE",
        help="a site, by name or number, that can dial the others but cannot be dialled; may be repeated",
    )
    parser.add_argument(
        "--change",
        type=_change,
        action="append",
        default=[],
        metavar="WHEN=R[,R...]",
        help="change what sites may send to R Mbit/s: WHEN is seconds after the start, as in 20s=30, or a text, as in "
        "'step 30'=30, that a line of output contains; instead of R, 'cut 10s' cuts the line for so long, cut until "
        "another change restores it, up leaves its rate as it is; may be repeated",
    )
    parser.add_argument(
        "--grace-s",
        type=float,
        default=60.0,
        metavar="S",
        help="when a site fails, let the others stop by themselves for so long, then end them (default: 60)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rates, byte counts and exit codes to FILE")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what every site runs")


def run(arguments: argparse.Namespace) -> int:
    """Runs the lab; returns the exit code of the first site that failed, or 128 + N if signal N stopped the lab."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise ValueError("no command given; write it after --, as in: geo-accel lab --sites 2 -- python train.py")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise ValueError(f"--json {arguments.json}: the folder does not exist")
    jobs = arguments.jobs or not (arguments.one_job or spans(command))
    if jobs and arguments.ranks_per_site is not None:
        raise ValueError(
            f"--ranks-per-site {arguments.ranks_per_site} is for one job over all sites, and here each site starts a "
            "job of its own, whose launcher says how many processes it has: leave it out, or add --one-job"
        )
    sites = make_sites(
        arguments.sites,
        bandwidth_mbps=arguments.bandwidth_mbps,
        latency_ms=arguments.latency_ms,
        loss_percent=arguments.loss_percent,
        downlink_mbps=arguments.downlink_mbps,
        nat=arguments.nat,
        shaping=not arguments.no_shaping,
    )
    lab = Lab(
        command,
        sites,
        rate_changes=make_rate_changes(arguments.change, sites),
        ranks_per_site=1 if arguments.ranks_per_site is None else arguments.ranks_per_site,
        jobs=jobs,
        grace_s=arguments.grace_s,
    )
    console = Console(stderr=True)
    screen = _Screen([site.name for site in sites])
    progress = console.status("building the network and measuring its links")
    with _stop_on_signals(lab), contextlib.ExitStack() as stack:
        if lab.shaping:
            stack.enter_context(progress)

        def show_start(result: LabResult) -> None:
            progress.stop()
            console.print(_links_table(result))

        try:
            result = lab.run(on_started=show_start, on_output=screen.show, on_tick=screen.tick)
        except LabUnavailable as reason:
            raise LabUnavailable(f"{reason}. With --no-shaping the sites run on loopback, unlimited") from None
        except BrokenPipeError:
            # Whoever read our output has gone. Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
    for note in result.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    if lab.started:
        console.print(_summary_table(result))
    else:
        console.print("stopped before the sites had started")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result.as_json(), indent=2) + "\n")
    if result.stopped_by is not None:
        return 128 + getattr(signal, result.stopped_by)
    return result.exit_code


class _Screen:
    """Writes the sites' lines to standard output, each behind the name of its site."""

    def __init__(self, names: list[str]) -> None:
        coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        width = max(len(name) for name in names) + 2
        self.prefixes = []
        for index, name in enumerate(names):
            prefix = f"[{name}]".ljust(width)
            if coloured:
                prefix = f"\x1b[{_COLOURS[index % len(_COLOURS)]}m{prefix}\x1b[0m"
            self.prefixes.append(prefix)
        self.splitters = [LineSplitter() for _ in names]

    def show(self, index: int, piece: bytes) -> None:
        self._write(index, self.splitters[index].feed(piece, time.monotonic()))

    def tick(self) -> None:
        for index, splitter in enumerate(self.splitters):
            self._write(index, splitter.tick(time.monotonic()))
        sys.stdout.flush()

    def _write(self, index: int, lines: list[str]) -> None:
        sys.stdout.writelines(f"{self.prefixes[index]} {line}\n" for line in lines)


@contextlib.contextmanager
def _stop_on_signals(lab: Lab) -> Generator[None]:
    """The first signal asks the sites to end, the second ends them at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stops(name: str) -> Callable[..., None]:
        return lambda *_: lab.stop(name)

    before = {name: signal.signal(getattr(signal, name), stops(name)) for name in _STOP_SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _links_table(result: LabResult) -> Table:
    table = Table(title=f"emulated WAN ({result.carrier}, TCP {result.congestion_control})", title_justify="left")
    downlinks = any(site.wanted_downlink_mbps is not None for site in result.sites)
    more = ["downlink"] if downlinks else []
    for heading in ("site", "wanted Mbit/s", *more, "measured", "wanted delay ms", "round trip ms"):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for site in result.sites:
        table.add_row(
            f"{site.name} (NAT)" if site.nat else site.name,
            f"{site.wanted_mbps:g}",
            *([f"{site.wanted_downlink_mbps:g}"] if downlinks else []),
            "" if site.measured_mbps is None else f"{site.measured_mbps:.1f}",
            f"{site.wanted_latency_ms:g}",
            "" if site.measured_rtt_ms is None else f"{site.measured_rtt_ms:.1f}",
        )
    return table


def _summary_table(result: LabResult) -> Table:
    table = Table(title=f"the sites ran for {result.duration_s:.1f} s", title_justify="left")
    for heading in ("site", "exit code", "ended at s", "sent MB", "received MB"):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for site in result.sites:
        table.add_row(
            site.name,
            "" if site.exit_code is None else str(site.exit_code),
            "" if site.ended_at_s is None else f"{site.ended_at_s:.1f}",
            "" if site.bytes_sent is None else f"{site.bytes_sent / 1e6:.3f}",
            "" if site.bytes_received is None else f"{site.bytes_received / 1e6:.3f}",
        )
    return table


def _change(text: str) -> tuple[float | str, list[State]]:
    # The text to wait for may hold an equals sign itself, as in loss=3; what comes then never does.
    when, _, states = text.rpartition("=")
    if not when or re.fullmatch(_NUMBER, when):
        raise argparse.ArgumentTypeError(f"{text!r} given; write it as in 20s=30 or 'step 30'=30")
    by_time = re.fullmatch(f"({_NUMBER})s", when)
    # What is no state of a line is named when the change is made; else it is to be numbers.
    words = [word.strip() for word in states.split(",")]
    made = [word if word[:3] in ("up", "cut") else _rates(word)[0] for word in words]
    return float(by_time[1]) if by_time else when, made
