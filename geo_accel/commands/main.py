# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The `geo-accel` command: finds the subcommand and turns expected errors into one line and exit code 2."""

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from geo_accel.commands import keys, lab, meet, plan, profile, simulate
from geo_accel.version import __version__

# A subcommand is a module with NAME, SUMMARY, add_arguments(parser) and run(arguments) -> exit code.
SUBCOMMANDS = {module.NAME: module for module in (lab, profile, plan, simulate, keys, meet)}


class _Parser(argparse.ArgumentParser):
    """argparse prints its whole usage before an error; one line is easier to read."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="geo-accel",
        description="Train across sites joined by slow networks, at the speed of one site.",
    )
    parser.add_argument("--version", action="version", version=f"geo-accel {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    for name, module in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `geo-accel` with `argv` (this process's arguments by default) and returns its exit code.

    ValueError and FileNotFoundError from a subcommand are the user's to mend: one line on standard error, code 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-") and argv[0] not in SUBCOMMANDS:
        near = difflib.get_close_matches(argv[0], SUBCOMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(SUBCOMMANDS)}"
        return _fail(f"there is no subcommand '{argv[0]}'; {hint}")
    arguments = build_parser().parse_args(argv)
    try:
        code = SUBCOMMANDS[arguments.subcommand].run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read has seen enough, as in "| head". Python flushes once more at its end, into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, FileNotFoundError) as error:
        return _fail(f"{arguments.subcommand}: {' '.join(str(error).split())}")


def _fail(message: str) -> int:
    print(f"geo-accel: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
