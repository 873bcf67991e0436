# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How the recipes end: what a user can mend is one line on stderr with exit code 2, a lost site one with 3."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from geo_accel import ConfigError, SiteLostError

USER_ERROR = 2
SITE_LOST = 3


class UsageError(ValueError):
    """Something the user gave cannot work; the message is one line and says what to do."""


_SAID_AFTER_S = 10.0
_ADVICE = (
    "are all machines started, in one job with one address and port (and no GEO_ACCEL_MEET), and is the port open?"
)


def _told(does: str) -> str:
    """A sentence of this process, with the places that its launcher named."""
    rank, world, address, port = (
        os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    )
    return f"rank {rank} of {world} {does} at {address}:{port}"


@contextmanager
def awaiting_ranks() -> Iterator[None]:
    """Say once, where joining the other processes of the job takes long in this block, that they are waited for.

    torch waits for half an hour and longer without a word.
    """
    words = f"{_told('has been waiting for the others')} for {_SAID_AFTER_S:g} s: {_ADVICE}"
    timer = threading.Timer(_SAID_AFTER_S, lambda: print(words, file=sys.stderr, flush=True))
    timer.daemon = True
    if os.environ.get("WORLD_SIZE", "1") != "1":
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def user_errors() -> Iterator[None]:
    """Declare that a ValueError raised in this block comes from what the user gave.

    It wraps the setting up, where libraries complain about names and numbers they were handed. Ranks that do not find
    each other count as well.
    """
    try:
        yield
    except torch.distributed.DistError as error:
        raise UsageError(f"{_told('did not meet the others')} ({one_line(error)}): {_ADVICE}") from error
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The message of an error on one line, the problems of a ConfigError one after the other."""
    if isinstance(error, ConfigError):
        return "; ".join(" ".join(problem.split()) for problem in error.problems)
    return " ".join(str(error).split()) or type(error).__name__


def run_recipe(run: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Call `run(arguments)` and return the exit code of the process: 0, 2 (user error) or 3 (a site was lost).

    User errors are what `user_errors` marks, and every ValueError that geo_accel or the recipes raise themselves. All
    other exceptions, a ValueError from inside torch among them, pass through with their traceback.
    """
    try:
        run(arguments)
        # Only after success: with other ranks inside a collective, ending the group could wait for them. Without it,
        # gloo's threads may outlive the interpreter, and that aborts the process now and then.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except ValueError as error:
        if not isinstance(error, (UsageError, ConfigError)) and not _is_ours(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        return USER_ERROR
    except SiteLostError as error:
        print(f"site lost: {one_line(error)}", file=sys.stderr, flush=True)
        return SITE_LOST
    return 0


def _is_ours(error: ValueError) -> bool:
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    return place.tb_frame.f_globals["__name__"].partition(".")[0] in ("geo_accel", "recipes")
