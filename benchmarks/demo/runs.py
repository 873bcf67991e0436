# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One run of one method: starts its workers in the lab, follows their steps, reads what they recorded."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.demo.setting import METHODS, TURNS, Setting
from benchmarks.kit.environment import steady
from geo_accel.lab import Lab, make_rate_changes, make_sites
from geo_accel.lab.output import LineSplitter

NAMES = METHODS | {TURNS: "all in turns"}
TIMEOUT_S = 900.0
"""After so long a run hangs: about four times what DDP takes."""
_LINES_OF_A_FAILURE = 15


class RunFailed(RuntimeError):
    """A worker failed; the message has its last lines."""


@dataclass(slots=True, kw_only=True)
class Run:
    """A finished run."""

    method: str
    label: str
    recordings: list[dict]
    """One per site; see `worker.Recording`."""
    began: float
    """Seconds from the start of the demo."""
    duration_s: float
    """With starting and ending, without the lab's probe."""
    link_mbps: list[float]
    """TCP goodput of each site that the lab's probe saw before the run, 10**6 bits per second."""
    notes: list[str] = field(default_factory=list)
    """What the lab could not do, one line each."""


def run_method(
    setting: Setting,
    method: str,
    folder: Path,
    *,
    steps: int,
    label: str,
    on_step: Callable[[int], None],
    period: int | None = None,
    plan: Path | None = None,
    trace: Path | None = None,
    save: Path | None = None,
    since: float = 0.0,
    rate_changes: Sequence[tuple[str, float]] = (),
) -> Run:
    """Trains once with `method`, or with all of them for `steps` turns; `on_step` gets what all sites have finished.

    `since` is the demo's start (`time.monotonic`); `rate_changes` are the lab's, by text and Mbit/s. Raises RunFailed
    with the last lines of what failed, LabUnavailable where this machine cannot emulate a network, ValueError where
    the network is not as wanted.
    """
    out = folder / label
    out.mkdir(parents=True)
    # The module, not its file: workers import the package from the repository they were started from.
    command = [sys.executable, "-m", "benchmarks.demo.worker", "--method", method, "--material", str(folder)]
    command += ["--out", str(out), "--steps", str(steps)]
    if period is not None:
        command += ["--period", str(period)]
    if plan is not None:
        command += ["--plan", str(plan)]
    if save is not None:
        command += ["--save", str(save)]
    environment = steady()
    if trace is not None:
        environment["GEO_ACCEL_TRACE"] = str(trace)
    sites = make_sites(setting.sites, bandwidth_mbps=setting.bandwidth_mbps)
    changes = make_rate_changes(rate_changes, sites)
    lab = Lab(command, sites, rate_changes=changes, env=environment, cwd=Path(__file__).parents[2], grace_s=15.0)
    output = _Output(out, setting.sites, on_step)
    began = time.monotonic()
    try:
        result = lab.run(timeout_s=TIMEOUT_S, on_output=output.take)
    finally:
        output.close()
    if result.stopped_by is not None:
        raise RunFailed(f"{NAMES[method]} did not finish within {TIMEOUT_S:.0f} s.\n{output.ends()}")
    if result.exit_code:
        failed = [f"{site.name} ended with {site.exit_code}" for site in result.sites if site.exit_code]
        raise RunFailed(f"{NAMES[method]} failed: {', '.join(failed)}.\n{output.ends()}")
    recordings = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(setting.sites)]
    if len({recording["weights"] for recording in recordings}) != 1:
        raise RunFailed(f"{NAMES[method]}: the sites do not hold the same model after their average.")
    return Run(
        method=method,
        label=label,
        recordings=recordings,
        began=began - since,
        duration_s=result.duration_s,
        link_mbps=[site.measured_mbps for site in result.sites],
        notes=result.notes,
    )


class _Output:
    """Sorts the workers' lines into steps and the rest, which goes to a log file per site."""

    def __init__(self, folder: Path, sites: int, on_step: Callable[[int], None]) -> None:
        self._splitters = [LineSplitter() for _ in range(sites)]
        self._steps = [0] * sites
        self._lines: list[list[str]] = [[] for _ in range(sites)]
        self._logs = [(folder / f"site{index}.log").open("w") for index in range(sites)]
        self._on_step = on_step

    def take(self, index: int, piece: bytes) -> None:
        for line in self._splitters[index].feed(piece, time.monotonic()):
            word, _, number = line.partition(" ")
            if word == "step" and number.isdigit():
                self._steps[index] = int(number)
                self._on_step(min(self._steps))
            else:
                self._lines[index].append(line)
                self._logs[index].write(line + "\n")

    def ends(self) -> str:
        """The last lines of every site."""
        return "\n".join(
            f"[site{index}] {line}" for index, lines in enumerate(self._lines) for line in lines[-_LINES_OF_A_FAILURE:]
        )

    def close(self) -> None:
        for log in self._logs:
            log.close()
