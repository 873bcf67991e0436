# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Makes and keeps the key files by which the sites of a run know each other.

Once, on any machine that is yours:

  geo-accel keys init keys
  geo-accel keys add a --keys keys
  geo-accel keys add b --keys keys

Then keys/a.pem goes to site a and keys/b.pem to site b, by a way that nobody else reads. The rest of the folder stays.
"""

import argparse
import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.table import Table

from geo_accel.commands.arguments import positive
from geo_accel.sites import authority
from geo_accel.sites.authority import SITE_DAYS
from geo_accel.sites.credentials import read_key_file

NAME = "keys"
SUMMARY = "make, remove and show the key files by which sites know each other"

SOON_DAYS = 30
"""Of what ends within so many days the table warns."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `geo-accel keys`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="make an authority, which signs key files, in a new folder")
    init.add_argument("folder", type=Path, metavar="FOLDER")
    add = actions.add_parser("add", help="write a site's key file; an earlier one of that site is taken back")
    add.add_argument("site", metavar="NAME", help="of the site")
    remove = actions.add_parser("remove", help="take a site's key file back")
    remove.add_argument("site", metavar="NAME", help="of the site")
    for action in (add, remove):
        action.add_argument("--keys", type=Path, required=True, metavar="FOLDER", help="that keys init has made")
    add.add_argument(
        "--days", type=positive, default=SITE_DAYS, metavar="N", help=f"how long it lasts (default: {SITE_DAYS})"
    )
    show = actions.add_parser("show", help="list a folder's certificates, or say what one key file is")
    show.add_argument("path", type=Path, metavar="FOLDER_OR_FILE")
    show.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Does what is asked for; returns 0. Raises ValueError for what cannot be done."""
    try:
        {"init": _init, "add": _add, "remove": _remove, "show": _show}[arguments.action](arguments)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    return 0


def _init(arguments: argparse.Namespace) -> None:
    folder = arguments.folder
    authority.init(folder)
    print(f"{folder} is the run's authority. Keep it to yourself; a key file for each site: geo-accel keys add NAME")


def _add(arguments: argparse.Namespace) -> None:
    path = authority.add(arguments.keys, arguments.site, arguments.days)
    until = read_key_file(path).about.until[:10]
    print(
        f"{path} lasts until {until}. Copy it to site {arguments.site}, and nowhere else: whoever has it is that site."
    )


def _remove(arguments: argparse.Namespace) -> None:
    authority.remove(arguments.keys, arguments.site)
    print(
        f"{arguments.site} is removed. Copy the key file of where the sites meet there anew, and start that again: "
        f"it then refuses {arguments.site}."
    )


def _show(arguments: argparse.Namespace) -> None:
    path, now = arguments.path, datetime.now(timezone.utc)
    if path.is_dir():
        rows = [asdict(one) | {"days_left": _days(one.ends, now)} for one in authority.issued(path)]
        if not arguments.json:
            _print_table(str(path), rows)
    else:
        about = read_key_file(path).about
        row: dict[str, object] = {"site": about.site, "until": about.until, "days_left": _days(about.ends, now)}
        rows = [row | {"removed": False, "names_removed": list(about.removed)}]
        if not arguments.json:
            _print_table(str(path), rows)
            print(f"Where the others meet, it refuses {len(about.removed) or 'no'} removed certificate(s).")
    if arguments.json:
        print(json.dumps(rows, indent=2))


def _days(ends: datetime, now: datetime) -> float:
    """From now on, rounded down to a tenth; below 0 where it has ended."""
    return (ends - now).total_seconds() // 8640 / 10


def _print_table(title: str, rows: list[dict]) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("site", "until", "days left", "removed"):
        table.add_column(heading, justify="right" if heading == "days left" else "left")
    for row in rows:
        left = row["days_left"]
        style = "dim" if row["removed"] else "red" if left < 0 else "yellow" if left < SOON_DAYS else ""
        days = "ended" if left < 0 else f"{left:.1f}" if left < SOON_DAYS else str(int(left))
        table.add_row(row["site"], row["until"][:10], days, "yes" if row["removed"] else "", style=style)
    console = Console(highlight=False, markup=False)
    console.print(table)
    ending = [row["site"] for row in rows if not row["removed"] and row["days_left"] < SOON_DAYS]
    if ending:
        console.print(f"Ended or soon to end: {', '.join(ending)}. geo-accel keys add NAME renews.", style="yellow")
