# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Progress bars: one per run, and one for everything in expected seconds, so that it moves evenly."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

# Seconds a step, or a turn, takes on the machine the demo was made on; and what starting and ending a run takes.
_STEP_S = {"none": 0.4, "ddp": 3.2, "local_sgd": 1.0, "geo": 0.4, "turns": 8.0}
_START_S = 12.0


class Bars:
    """The bars of the whole demo; a context manager. On something that is no terminal only finished runs are told."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # The workers need the machine: two updates a second cost next to nothing.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=2,
            expand=True,
        )
        self._total = self._progress.add_task("[bold]all runs", total=0, unit="% of the expected time", start=True)
        self._planned: list[tuple[str, str, int]] = []
        self._tasks: dict[str, TaskID] = {}
        self._done_s: dict[str, float] = {}

    def __enter__(self) -> "Bars":
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def plan(self, label: str, method: str, description: str, steps: int) -> None:
        """Announces a run."""
        self._planned.append((label, method, steps))
        self._tasks[label] = self._progress.add_task(description, total=steps, unit="steps", start=False)
        self._show_total()

    def begin(self, label: str, steps: int) -> Callable[[int], None]:
        """The run starts; returns what takes the number of its finished steps."""
        method = next(one for name, one, _ in self._planned if name == label)
        self._planned = [(name, one, steps if name == label else n) for name, one, n in self._planned]
        task = self._tasks[label]
        self._progress.update(task, total=steps)
        self._progress.start_task(task)

        def advance(done: int) -> None:
            # A run may turn out longer than planned: two of its periods have to fit.
            self._progress.update(task, completed=done, total=max(steps, done))
            self._done_s[label] = _START_S * 0.8 + done * _STEP_S[method]
            self._show_total()

        return advance

    def end(self, label: str, message: str) -> None:
        """The run has finished; `message` says with what."""
        method, steps = next((one, n) for name, one, n in self._planned if name == label)
        self._done_s[label] = _START_S + steps * _STEP_S[method]
        self._progress.update(self._tasks[label], completed=steps)
        self._progress.stop_task(self._tasks[label])
        self._show_total()
        self.console.print(message, highlight=False)

    def drop(self, label: str) -> None:
        """The run will not take place."""
        self._planned = [one for one in self._planned if one[0] != label]
        self._progress.remove_task(self._tasks.pop(label))
        self._show_total()

    def _show_total(self) -> None:
        expected = sum(_START_S + steps * _STEP_S[method] for _, method, steps in self._planned)
        share = 100 * sum(self._done_s.values()) / expected
        self._progress.update(self._total, total=100, completed=min(100, int(share)))
