# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Runs a command on the sites of an emulated WAN: starts the supervisor, follows it, gathers output and results."""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geo_accel.lab.changes import RateChange, State, TextWatch, make_rate_changes
from geo_accel.lab.jobs import MEETING_PORT, job_environment, keys_in
from geo_accel.lab.namespaces import LabUnavailable, unshare_command
from geo_accel.lab.pipes import pipe
from geo_accel.lab.results import LabResult, RateChangeResult, SiteResult
from geo_accel.lab.sites import MASTER_PORT, Site, choose_port, make_sites, site_command, site_environment

_END_TIMEOUT_S = 10.0
_KEPT_DIAGNOSIS_BYTES = 4000

OnOutput = Callable[[int, bytes], None]
"""Told the index of a site and a piece of its output, an empty one at its end."""
OnStarted = Callable[[LabResult], None]
"""Told the result with what the probe measured."""


def run_sites(
    command: Sequence[str],
    *,
    sites: int = 2,
    bandwidth_mbps: float | Sequence[float] = 100.0,
    latency_ms: float | Sequence[float] = 0.0,
    loss_percent: float | Sequence[float] = 0.0,
    downlink_mbps: float | Sequence[float] | None = None,
    ranks_per_site: int = 1,
    jobs: bool = False,
    shaping: bool = True,
    nat: Sequence[int | str] = (),
    rate_changes: Sequence[tuple[float | str, State | Sequence[State]]] = (),
    verify: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike | None = None,
    grace_s: float = 60.0,
    timeout_s: float | None = None,
) -> LabResult:
    """Runs `command` once per site, each in its own network namespace, and waits for all of them.

    Args:
        command: program and arguments; `{rank}`, `{sites}`, `{master}`, `{site}` are filled in per site.
        bandwidth_mbps: what a site may send, 10**6 bits per second; one for all sites or one per site.
        latency_ms: one-way delay of what a site sends; likewise.
        loss_percent: share of packets lost of what a site sends; likewise.
        downlink_mbps: what a site may receive, 10**6 bits per second; likewise, or None for no limit.
        ranks_per_site: with 1, RANK, WORLD_SIZE and so on are set; with more, use torchrun inside the site.
        jobs: each site's command is a job of its own: no variable of a launcher is set, but GEO_ACCEL_SITE, _MEET,
            _EXPECT and _KEYS, a key file made for the run, so that the jobs find and trust each other.
        shaping: False runs the sites on loopback, without namespaces or limits.
        nat: the sites, by name or number, that can dial the others over TCP, but cannot be dialled.
        rate_changes: (when, bandwidth_mbps) pairs, which hold from then on: a number is seconds after the start of the
            commands, a text waits for the first line of any site's output that contains it. Each happens once.
            Downlinks stay as they are. In place of a rate "cut 10s" cuts a site's line, both ways, for so many
            seconds, "cut" until "up" or a rate restores it; "up" leaves the rate as it is.
        verify: measure the links before the run (two to five seconds) and refuse if they are not as wanted.
        env: the environment the sites' own variables are added to; this process's by default.
        grace_s: time the others have to stop by themselves when one site has failed; then SIGTERM, then SIGKILL.
        timeout_s: for the commands, without set-up; when it passes all are ended and `stopped_by` is "timeout".

    A failing command is a result, not an exception. Raises LabUnavailable (a ValueError) where namespaces are not
    allowed, ValueError for settings that cannot work or a network that is not as wanted, FileNotFoundError if the
    command does not exist. On KeyboardInterrupt all sites are ended first.
    """
    described = make_sites(
        sites,
        bandwidth_mbps=bandwidth_mbps,
        latency_ms=latency_ms,
        loss_percent=loss_percent,
        downlink_mbps=downlink_mbps,
        nat=nat,
        shaping=shaping,
    )
    lab = Lab(
        command,
        described,
        rate_changes=make_rate_changes(rate_changes, described),
        ranks_per_site=ranks_per_site,
        jobs=jobs,
        verify=verify,
        env=env,
        cwd=cwd,
        grace_s=grace_s,
    )
    return lab.run(timeout_s=timeout_s)


class Lab:
    """One run; `run_sites` is the short form. `stop` may be called from a signal handler while `run` works."""

    def __init__(
        self,
        command: Sequence[str],
        sites: Sequence[Site],
        *,
        rate_changes: Sequence[RateChange] = (),
        ranks_per_site: int = 1,
        jobs: bool = False,
        verify: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike | None = None,
        grace_s: float = 60.0,
    ) -> None:
        if ranks_per_site < 1:
            raise ValueError(f"ranks_per_site: {ranks_per_site} given; at least 1")
        if not grace_s >= 0:
            raise ValueError(f"grace_s: {grace_s} given; at least 0 seconds")
        self.shaping = sites[0].bandwidth_mbps is not None
        base = dict(os.environ if env is None else env)
        self.folder = os.path.abspath(os.getcwd() if cwd is None else cwd)
        if not command or not _exists(command[0], self.folder, base):
            raise FileNotFoundError(f"command not found: {command[0] if command else 'none given'}")
        self.rate_changes = list(rate_changes)
        self.jobs = jobs
        if jobs:
            port = choose_port(MEETING_PORT, self.shaping)
            environments = [job_environment(site, sites, port=port, base=base) for site in sites]
        else:
            port = choose_port(MASTER_PORT, self.shaping)
            environments = [
                site_environment(site, sites, ranks_per_site=ranks_per_site, master_port=port, base=base)
                for site in sites
            ]
        self.environments = environments
        self.task: dict[str, Any] = {
            "sites": [asdict(site) for site in sites],
            "shaping": self.shaping,
            "rate_changes": [asdict(change) for change in self.rate_changes],
            "verify": verify,
            "grace_s": grace_s,
            "cwd": self.folder,
            "own_memory": jobs,
            "scratch": None,
            "commands": [site_command(command, site, sites) for site in sites],
            "environments": environments,
        }
        self.result = LabResult(
            sites=[
                SiteResult(
                    name=site.name,
                    wanted_mbps=site.bandwidth_mbps,
                    wanted_downlink_mbps=site.downlink_mbps,
                    wanted_latency_ms=site.latency_ms,
                    nat=site.nat,
                )
                for site in sites
            ],
            rate_changes=[RateChangeResult(**asdict(change)) for change in self.rate_changes],
        )
        self.supervisor: subprocess.Popen[bytes] | None = None
        self.started = False
        self.deadline: float | None = None
        self.failure: ValueError | None = None

    def stop(self, name: str = "SIGTERM") -> None:
        """Asks all sites to end: with the signal `name`, after at most 10 seconds with SIGTERM, then SIGKILL.

        A second call ends them at once. During set-up, which has nothing worth a grace period, so does the first.
        """
        self.result.stopped_by = self.result.stopped_by or name
        if self.supervisor is None:
            return
        if not self.started:
            self.supervisor.kill()
            return
        self._ask(self.supervisor, stop=int(getattr(signal, name, signal.SIGTERM)))

    def run(
        self,
        *,
        timeout_s: float | None = None,
        on_output: OnOutput | None = None,
        on_started: OnStarted | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> LabResult:
        """Runs the command on all sites; see `run_sites`.

        `on_tick` is called at least every quarter of a second.
        """
        if self.result.stopped_by:
            return self.result
        with contextlib.ExitStack() as stack:
            if self.jobs:
                self.task["scratch"] = stack.enter_context(keys_in(self.environments))
            return self._run(timeout_s, on_output, on_started, on_tick)

    def _run(
        self,
        timeout_s: float | None,
        on_output: OnOutput | None,
        on_started: OnStarted | None,
        on_tick: Callable[[], None] | None,
    ) -> LabResult:
        reads, writes = zip(*(os.pipe() for _ in self.result.sites), strict=True)
        try:
            supervisor = self._start_supervisor(writes)
        finally:
            for write in writes:
                os.close(write)
        try:
            self._follow(supervisor, reads, timeout_s, on_output, on_started, on_tick)
        except KeyboardInterrupt:
            self.stop("SIGINT")
            self.stop("SIGINT")
            raise
        finally:
            # Closing the request pipe ends whatever still runs.
            pipe(supervisor.stdin).close()
            try:
                supervisor.wait(timeout=_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
            pipe(supervisor.stdout).close()
            pipe(supervisor.stderr).close()
            for read in reads:
                os.close(read)
        if self.failure is not None and self.result.stopped_by is None:
            raise self.failure
        return self.result

    def _ask(self, supervisor: subprocess.Popen[bytes], **request: int) -> None:
        # One write, so that a signal handler cannot come between its halves; if refused, the run has just ended.
        with contextlib.suppress(BrokenPipeError, ValueError):
            os.write(pipe(supervisor.stdin).fileno(), (json.dumps(request) + "\n").encode())

    def _start_supervisor(self, outputs: Sequence[int]) -> subprocess.Popen[bytes]:
        isolation = unshare_command() if self.shaping else []
        root = str(Path(__file__).parents[2])
        search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        supervisor = self.supervisor = subprocess.Popen(
            [*isolation, sys.executable, "-m", "geo_accel.lab.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=outputs,
            # Ctrl-C is for the lab, which passes it on in its own way.
            start_new_session=True,
            # The user's folder must not be searched for modules of the lab's own.
            cwd="/",
            env={**os.environ, "PYTHONPATH": search},
        )
        task = json.dumps({**self.task, "outputs": list(outputs)}) + "\n"
        try:
            pipe(supervisor.stdin).write(task.encode())
            pipe(supervisor.stdin).flush()
        except BrokenPipeError:
            pass  # it died at once; _follow reads why
        return supervisor

    def _follow(
        self,
        supervisor: subprocess.Popen[bytes],
        reads: Sequence[int],
        timeout_s: float | None,
        on_output: OnOutput | None,
        on_started: OnStarted | None,
        on_tick: Callable[[], None] | None,
    ) -> None:
        chunks: list[list[bytes]] = [[] for _ in reads]
        events, diagnosis, finished = b"", b"", False
        watch = TextWatch(self.rate_changes, len(reads))
        with selectors.DefaultSelector() as selector:
            for index, read in enumerate(reads):
                selector.register(read, selectors.EVENT_READ, index)
            selector.register(pipe(supervisor.stdout), selectors.EVENT_READ, "events")
            selector.register(pipe(supervisor.stderr), selectors.EVENT_READ, "diagnosis")
            while selector.get_map():
                for key, _ in selector.select(0.25):
                    piece = os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(key.fileobj)
                    if key.data == "events":
                        *lines, events = (events + piece).split(b"\n")
                        for line in lines:
                            event = json.loads(line)
                            finished = finished or event["event"] in ("finished", "error")
                            self._take(event, timeout_s, on_started)
                    elif key.data == "diagnosis":
                        diagnosis = (diagnosis + piece)[-_KEPT_DIAGNOSIS_BYTES:]
                    else:
                        for change in watch.feed(key.data, piece):
                            self._ask(supervisor, change=change)
                        if on_output is not None:
                            on_output(key.data, piece)
                        else:
                            chunks[key.data].append(piece)
                if on_tick is not None:
                    on_tick()
                if self.deadline is not None and time.monotonic() > self.deadline:
                    self.deadline = None
                    self.stop("timeout")
        for site, pieces in zip(self.result.sites, chunks, strict=True):
            site.output = b"".join(pieces).decode(errors="replace")
        if not finished:
            said = diagnosis.decode(errors="replace").strip().splitlines()
            self.failure = ValueError(f"the lab's supervisor died: {said[-1] if said else 'killed'}")

    def _take(self, event: dict, timeout_s: float | None, on_started: OnStarted | None) -> None:
        result, kind = self.result, event["event"]
        if kind == "note":
            result.notes.append(event["text"])
        elif kind == "probe":
            result.carrier = event["carrier"]
            result.congestion_control = event["congestion_control"]
            for index, site in enumerate(result.sites):
                site.measured_mbps = event["mbps"][index] if event["mbps"] else None
                site.measured_rtt_ms = event["rtt_ms"][index] if event["rtt_ms"] else None
            if on_started is not None:
                on_started(result)
        elif kind == "started":
            self.started = True
            if timeout_s is not None:
                self.deadline = time.monotonic() + timeout_s
        elif kind == "changed":
            change = self.rate_changes[event["index"]]
            result.rate_changes[event["index"]].at_s = event["at_s"]
            result.notes.append(f"from {event['at_s']:.1f} s on: {change.rates} ({change.moment})")
        elif kind == "restored":
            result.notes.append(f"from {event['at_s']:.1f} s on: the line of {result.sites[event['site']].name} is up")
        elif kind == "exit":
            site = result.sites[event["site"]]
            site.exit_code, site.ended_at_s = event["code"], event["at_s"]
            result.exit_code = result.exit_code or event["code"]
        elif kind == "finished":
            result.duration_s = event["duration_s"]
            for change, done in zip(self.rate_changes, result.rate_changes, strict=True):
                if done.at_s is None:
                    result.notes.append(
                        f"the change to {change.rates} {change.moment} never happened: the sites ended first"
                    )
            for site, counts in zip(result.sites, event["byte_counts"] or [], strict=False):
                site.bytes_sent, site.bytes_received = counts
        elif kind == "error":
            self.failure = (LabUnavailable if event["unavailable"] else ValueError)(event["text"])
        else:
            raise AssertionError(f"unknown event {kind}")


def _exists(program: str, folder: str, environment: Mapping[str, str]) -> bool:
    if os.sep in program:
        return os.access(os.path.join(folder, program), os.X_OK)
    return shutil.which(program, path=environment.get("PATH", os.defpath)) is not None
