# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What one rank cannot do, all ranks hear of at once: nobody goes on alone, nobody waits for who has given up."""

from collections.abc import Callable
from typing import TypeVar

from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.store import ControlPlane

T = TypeVar("T")

_LONGEST = 1000  # characters of one rank's problem; libraries print pages


class _Told(Exception):
    """Marks an error that every rank has heard of already."""


class _ToldValueError(_Told, ValueError):
    pass


class _ToldOSError(_Told, OSError):
    pass


class _ToldRuntimeError(_Told, RuntimeError):
    pass


def on_every_rank(control: ControlPlane, what: str, action: Callable[[], T]) -> list[T]:
    """What `action()` returned on every rank, by rank; it must fit into JSON. Collective.

    `what` is a word and what it is about, such as "saving FOLDER": the word is the same on all ranks, but sites may
    have their folders in other places.

    Where it failed on any rank, the same error is raised on all, in one line that names `what`, the ranks and what
    went wrong there: ValueError where only those were raised, else OSError or RuntimeError. An action may call this
    itself: what was told inside is not told again. Raises SiteLostError for ranks that do not come.
    """
    failure = None
    try:
        answer = {"done": action()}
    except (SiteLostError, _Told):
        raise
    except Exception as error:  # whatever it is, the others must not wait for this rank
        failure = error
        kinds = {ValueError: _ToldValueError, OSError: _ToldOSError}
        kind = next((name for name in kinds if isinstance(error, name)), RuntimeError)
        answer = {"kind": kind.__name__, "problem": in_one_line(error)}
    answers = control.gather(what.split(maxsplit=1)[0], answer)
    failed = {rank: answer for rank, answer in enumerate(answers) if "problem" in answer}
    if not failed:
        return [answer["done"] for answer in answers]
    ranks_of: dict[str, list[int]] = {}
    for rank, answer in failed.items():
        ranks_of.setdefault(answer["problem"], []).append(rank)
    listing = "; ".join(
        f"{', '.join(map(control.name_of, ranks))}: {problem}" for problem, ranks in list(ranks_of.items())[:3]
    )
    raised = {answer["kind"] for answer in failed.values()}
    kind = _ToldValueError if raised == {"ValueError"} else _ToldOSError if "OSError" in raised else _ToldRuntimeError
    raise kind(f"{what}: {listing}") from failure


def in_one_line(error: BaseException) -> str:
    """What an error says, its kind first where its words alone would not be understood."""
    text = " ".join(str(error).split())[:_LONGEST]
    return text if text and isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}".rstrip(": ")
