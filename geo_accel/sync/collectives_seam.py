# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The one private seam into torch.distributed: which collectives are called on which groups, and how long they block.

torch has no hook for that. Every Python caller ends in a method of `ProcessGroup`, whatever it imported, and waits in
`Work.wait`: those are replaced while somebody listens. What C++ starts (DDP's reducer, compiled graphs) passes them by
and shows in a group's sequence number alone.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from time import perf_counter
from types import FrameType
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch.distributed import ProcessGroup, Work, distributed_c10d

T = TypeVar("T")

# Of torch 2.6 to 2.13; a version has most of them.
CALLS = (
    "_allgather_base",
    "_reduce_scatter_base",
    "all_gather_single",
    "all_to_all_single",
    "allgather",
    "allgather_coalesced",
    "allgather_into_tensor_coalesced",
    "allreduce",
    "allreduce_coalesced",
    "alltoall",
    "alltoall_base",
    "barrier",
    "broadcast",
    "gather",
    "monitored_barrier",
    "recv",
    "recv_anysource",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_tensor_coalesced",
    "scatter",
    "send",
)
# Whose frames say nothing about who called.
PASSED_ON_BY = ("torch", "accelerate", "functools", "contextlib", __name__)


class Listener(Protocol):
    """Who wants to know."""

    def minds(self, group: ProcessGroup) -> bool:
        """Whether calls on `group` matter."""

    def called(self, group: ProcessGroup, call: str, issued: int) -> None:
        """`call`, with the place it came from, has issued so many collectives on `group`."""

    def blocked(self, group: ProcessGroup, call: str, seconds: float) -> None:
        """The caller has stood still in `call` for so long."""

    def failed(self, group: ProcessGroup, call: str, error: RuntimeError) -> RuntimeError:
        """What to raise in place of `error`."""


_listeners: list[Listener] = []
_originals: dict[tuple[type, str], object] = {}
"""As they stand in the class: what a class gives of them, a builtin, would not bind if it were put back."""
_running: WeakKeyDictionary[Work, tuple[ProcessGroup, str]] = WeakKeyDictionary()


def listen(listener: Listener) -> None:
    """Tells `listener` of every call from now on."""
    _listeners.append(listener)
    if _originals:
        return
    for name in CALLS:
        if name in vars(ProcessGroup):
            _replace(ProcessGroup, name, _calling)
    _replace(Work, "wait", _waiting)


def stop_listening(listener: Listener) -> None:
    """The methods get their own code back when the last one has gone."""
    if listener in _listeners:
        _listeners.remove(listener)
    if not _listeners:
        for (kind, name), original in _originals.items():
            setattr(kind, name, original)
        _originals.clear()


def groups() -> Iterator[ProcessGroup]:
    """All groups that this rank is in."""
    return iter(list(distributed_c10d._world.pg_map))


def issued(group: ProcessGroup) -> int:
    """How many collectives this rank has issued on `group`, whoever did; 0 where the backend does not count."""
    try:
        return group._get_sequence_number_for_group()  # pyrefly: ignore[missing-attribute] (the stubs lack it)
    except RuntimeError:
        return 0


def _replace(kind: type, name: str, make: Callable[[str, Callable], Callable]) -> None:
    _originals[kind, name] = vars(kind)[name]
    setattr(kind, name, make(name, getattr(kind, name)))


def _calling(name: str, original: Callable) -> Callable:
    @functools.wraps(original)
    def call(group: ProcessGroup, *args: object, **kwargs: object) -> Work | None:
        listeners = [listener for listener in _listeners if listener.minds(group)]
        if not listeners:
            return original(group, *args, **kwargs)
        what, before = f"{name.strip('_')} at {_place(sys._getframe(1))}", issued(group)
        work = _timed(listeners, group, what, lambda: original(group, *args, **kwargs))
        for listener in listeners:
            listener.called(group, what, issued(group) - before)
        if work is not None:
            _running[work] = group, what
        return work

    return call


def _waiting(name: str, original: Callable) -> Callable:
    @functools.wraps(original)
    def wait(work: Work, *args: object, **kwargs: object) -> bool:
        running = _running.get(work)
        if running is None:
            return original(work, *args, **kwargs)
        group, what = running
        listeners = [listener for listener in _listeners if listener.minds(group)]
        return _timed(listeners, group, what, lambda: original(work, *args, **kwargs))

    return wait


def _timed(listeners: list[Listener], group: ProcessGroup, what: str, do: Callable[[], T]) -> T:
    if not listeners:
        return do()
    start = perf_counter()
    try:
        return do()
    except RuntimeError as error:
        told = listeners[0].failed(group, what, error)
        if told is error:
            raise
        raise told from error
    finally:
        for listener in listeners:
            listener.blocked(group, what, perf_counter() - start)


def _place(frame: FrameType | None) -> str:
    """The first caller who is none of those that pass calls on."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] not in PASSED_ON_BY and module not in PASSED_ON_BY:
            file = frame.f_code.co_filename.rpartition("/")[2] if module == "__main__" else module
            return f"{file}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return "an unknown place"


def ranks_of(group: ProcessGroup) -> list[int]:
    """Of the world, in the group's order."""
    return dist.get_process_group_ranks(group)
