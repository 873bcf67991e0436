# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A bar for work that takes long."""

import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import Progress


def watched(jobs: Iterable, what: str) -> Iterator:
    """The jobs one by one; a progress bar on standard error from the second second on."""
    jobs = list(jobs)
    console = Console(stderr=True)
    # Where nobody looks, a transient bar would leave empty lines.
    began, progress = time.monotonic(), Progress(console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(what, total=len(jobs))
    try:
        for job in jobs:
            yield job
            progress.advance(task)
            if not progress.live.is_started and time.monotonic() - began > 1:
                progress.start()
    finally:
        progress.stop()
