# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What step boundaries ask of the weights' device: whether the training thread waits for it, and what stays there.

Run by `engine_worker`.
"""

import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.workers.bare_model import build, nudge, start, vector

_WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "item", "masked_select", "unique2"}
"""Operations that on an accelerator wait until it has done everything so far."""


class _Asked(TorchDispatchMode):
    """Notes such operations of the thread that entered it. What else waits on CUDA, torch warns of by itself."""

    def __init__(self, told: Callable[[str], None]) -> None:
        super().__init__()
        self._told = told

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _WAITS:
            self._told(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def _watched(seen: list[str]) -> Iterator[None]:
    """Fills `seen` with what in this thread waits for the device, and where in the package."""
    thread = threading.get_ident()

    def told(what: object) -> None:
        places = [frame for frame in traceback.extract_stack() if "/geo_accel/" in frame.filename]
        place = f"{places[-1].filename.rpartition('/geo_accel/')[2]}:{places[-1].lineno}" if places else "elsewhere"
        seen.append(f"{what} in {place}")

    def show(message: object, *_: object, **__: object) -> None:
        if threading.get_ident() == thread and "synchroniz" in str(message):
            told("synchronises")

    cuda = torch.cuda.is_available()
    with warnings.catch_warnings(), _Asked(told):
        warnings.simplefilter("always")
        warnings.showwarning = show
        try:
            if cuda:
                torch.cuda.set_sync_debug_mode("warn")
            yield
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")


def quiet(settings: dict, steps: int) -> dict:
    """`waits`: what waited for the weights' device, by boundary; `left`: bytes more on it than before there was an
    engine, after each settling; `noticed`: how often a wait that was made on purpose was seen."""
    model = build()
    device = next(model.parameters()).device

    def allocated() -> int:
        if device.type != "cuda":
            return 0
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)

    before = allocated()
    session, engine = start(settings, model)
    waits, left = [], []
    for step in range(steps):
        nudge(model, seed=100 * step + session.topology.site_index, scale=0.1)
        seen: list[str] = []
        with _watched(seen):
            engine.step()
        waits.append(seen)
        if step % 4 == 3:
            engine.settle()
            left.append(allocated() - before)
    noticed: list[str] = []
    with _watched(noticed):
        next(model.parameters()).sum().item()
    engine.flush()
    left.append(allocated() - before)
    record = {"waits": waits, "left": left, "noticed": len(noticed), "bytes": engine.figures.wan_bytes}
    record["bits"] = vector(model).tolist()
    engine.close()
    return record
