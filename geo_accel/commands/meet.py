# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The meeting point as a process of its own, on any machine that all sites can reach.

  geo-accel keys add meet --keys keys
  geo-accel meet --listen 29400 --keys keys/meet.pem --expect 2

Sites then start with GEO_ACCEL_MEET=host:29400. It serves one run, until it is stopped; it needs neither torch nor an
accelerator, and next to no network: weights do not pass through it, unless two sites cannot reach each other.
"""

import argparse
import contextlib
import signal
import threading
from collections.abc import Callable, Generator

from rich.console import Console
from rich.status import Status

from geo_accel.commands.arguments import count
from geo_accel.sites.credentials import read_credentials
from geo_accel.sites.host import Host
from geo_accel.sites.invitation import Address, address_of
from geo_accel.sites.port import Port

NAME = "meet"
SUMMARY = "be the meeting point of a run's sites"

_LOOK_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `geo-accel meet`."""
    parser.add_argument(
        "--listen",
        type=_place,
        required=True,
        metavar="[HOST:]PORT",
        help="where sites come; without HOST, all addresses of this machine",
    )
    parser.add_argument("--keys", required=True, metavar="FILE", help="a key file that geo-accel keys add has written")
    parser.add_argument(
        "--expect",
        type=count(2, auto=False),
        metavar="N",
        help="how many sites to wait for (default: what they say, else 2)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM; returns 0. Raises ValueError for keys and addresses that cannot be used."""
    credentials = read_credentials(arguments.keys)
    console = Console(stderr=True, highlight=False)

    def says(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(_stop_on_signals())
        host = Host(credentials, arguments.expect, says)
        stack.callback(host.close)
        where, number = arguments.listen
        port = Port(where, number, host.talk, host.relays)
        stack.callback(port.close)
        says(f"the meeting point listens at port {port.number}, as {credentials.site}")
        status = console.status("")
        if console.is_terminal:  # elsewhere it would leave empty lines
            stack.enter_context(status)
        _watch(host, status, says, stopped)
    says("stopped")
    return 0


def _watch(host: Host, status: Status, says: Callable[[str], None], stopped: threading.Event) -> None:
    """Shows who is there, until `stopped`."""
    before: dict[str, tuple[int, int]] = {}
    complete = False
    while not stopped.wait(_LOOK_S):
        present = host.present
        for site in sorted({*before, *present}):
            line = _change(site, before.get(site), present.get(site))
            if line is not None:
                says(line)
        before = present
        roster = host.roster
        if roster is not None and not complete:
            complete = True
            sizes = ", ".join(f"{member.name} ({member.size} process(es))" for member in roster.members)
            says(f"all are there: {sizes}")
        there = ", ".join(f"{site} {there}/{size}" for site, (there, size) in present.items()) or "nobody"
        status.update(f"there: {there}" + (f"; missing: {missing}" if (missing := host.missing) else ""))


def _change(site: str, before: tuple[int, int] | None, now: tuple[int, int] | None) -> str | None:
    """What to say of a site of which first so many of so many processes were there, and then so many."""
    was_whole, is_whole = (one is not None and one[0] == one[1] for one in (before, now))
    if is_whole and not was_whole:
        return f"{site} is there"
    if was_whole and not is_whole:
        return (
            f"{site} has left"
            if now is None or now[0] == 0
            else f"{site} has lost processes: {now[0]} of {now[1]} are there"
        )
    if now is not None and now[0] == 0 and before is not None and before[0] > 0:
        return f"{site} has left"
    return None


@contextlib.contextmanager
def _stop_on_signals() -> Generator[threading.Event]:
    """Set once this process is to end."""
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _place(text: str) -> Address:
    """Host, "" for all addresses, and port."""
    try:
        return address_of(text, "", "", may_lack_host=True)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} given; allowed: a port from 1 to 65535, as in 29400 or host:29400"
        ) from None
