# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What runs on this machine, for tests that see whether anything is left."""

import time
from collections.abc import Callable
from pathlib import Path


def processes_with(*words: str) -> list[str]:
    """Process ids with command lines, arguments apart by spaces, of the processes whose command line has all words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if all(word in text for word in words):
            found.append(f"{path.parent.name} {text}")
    return found


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(one for child in children for one in descendants(child))]


def eventually(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it becomes true in that time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
