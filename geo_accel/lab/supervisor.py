# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The process that holds the lab's network and runs the sites' commands.

It is process 1 of the lab's namespaces: the kernel ends everything inside when it ends. It reads one JSON line that
describes the run, then one JSON line per request: {"stop": number of a signal} or {"change": index of a rate change};
end of input means that the lab itself has died. It writes one JSON line per event: note, probe, started, changed,
restored, exit, finished, error.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geo_accel.lab import reach, verify
from geo_accel.lab.changes import RateChange
from geo_accel.lab.namespaces import LabUnavailable, become_subreaper, mount, unmount
from geo_accel.lab.shaping import Wiring, carriers_for, wire
from geo_accel.lab.sites import Site

TERM_TO_KILL_S = 10.0
"""Seconds that a site has between SIGTERM and SIGKILL."""

SETTLE_STEP_S = 0.05
SETTLE_TIMEOUT_S = 3.0
PROBE_ATTEMPTS = 4


class Supervisor:
    def __init__(self, task: dict, events: int) -> None:
        self.task = task
        self.events = events
        self.sites = [Site(**one) for one in task["sites"]]
        self.changes = [RateChange(**one) for one in task["rate_changes"]]
        self.now = self.sites
        self.restore_at: dict[int, float] = {}
        self.timed = sorted((one.after_s, index) for index, one in enumerate(self.changes) if one.after_s is not None)
        self.wiring: Wiring | None = None
        self.running: dict[int, Site] = {}
        self.term_at: float | None = None
        self.kill_at: float | None = None
        self.stops = 0
        self.requests = b""
        self.begin = 0.0

    def tell(self, event: str, **facts: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self.events, (json.dumps({"event": event, **facts}) + "\n").encode())

    def run(self) -> None:
        if self.task["shaping"]:
            self.prepare_files()
            self.build_network()
        else:
            become_subreaper()
        # SIGCHLD only has to interrupt select; the pipe makes that free of races.
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wiring = self.wiring
        before = self.settled_byte_counts(wiring) if wiring else []
        self.begin = time.monotonic()
        self.start_sites()
        self.tell("started")
        self.supervise(wake_read)
        duration = time.monotonic() - self.begin
        counts = None
        if wiring:
            after = wiring.byte_counts()
            counts = [(a[0] - b[0], a[1] - b[1]) for a, b in zip(after, before, strict=True)]
            # From here on dying relays are no news.
            dropped = wiring.take_down()
            if dropped:
                self.tell("note", text=f"the relay lost {dropped} packets because it could not keep up")
        self.tell("finished", duration_s=duration, byte_counts=counts)

    def settled_byte_counts(self, wiring: Wiring) -> list[tuple[int, int]]:
        """The counters, once what the probe left in the queues has drained."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        counts, earlier = wiring.byte_counts(), None
        while counts != earlier and time.monotonic() < deadline:
            time.sleep(SETTLE_STEP_S + 2 * max(site.latency_ms for site in self.sites) / 1000)
            counts, earlier = wiring.byte_counts(), counts
        return counts

    def prepare_files(self) -> None:
        """Private /proc and /etc/hosts. Where the machine forbids one, the run goes on with the machine's own."""
        with contextlib.suppress(OSError):
            mount("proc", "/proc", "proc")
        with contextlib.suppress(OSError):
            lines = Path("/etc/hosts").read_text().splitlines()
            lines += [f"{prefix}{site.address} {site.name}" for site in self.sites for prefix in ("", "::ffff:")]
            # The file lives on a memory file system that is only reachable through the bind mount.
            mount("tmpfs", "/tmp", "tmpfs")
            try:
                Path("/tmp/hosts").write_text("\n".join(lines) + "\n")
                Path("/tmp/hosts").chmod(0o644)
                mount("/tmp/hosts", "/etc/hosts", bind=True)
            finally:
                unmount("/tmp")

    def build_network(self) -> None:
        carriers, fault = carriers_for(self.sites), "no carrier"
        for carrier in carriers:
            last = carrier == carriers[-1]
            wiring = self.wiring = wire(self.sites, carrier, [one.applied_to(self.sites) for one in self.changes])
            if not self.task["verify"]:
                self.tell_probe(wiring, None, None)
                self.wall_off(wiring)
                return
            attempts = 0
            while True:
                attempts += 1
                seen = verify.measure(self.sites, self.start_probe)
                fault = verify.find_fault(self.sites, seen, carrier)
                # A machine that is busy for a moment deserves another look.
                if fault is None or attempts == PROBE_ATTEMPTS:
                    break
            if fault is None or last:
                self.tell_probe(wiring, seen.mbps, seen.rtt_ms)
                for note in seen.notes:
                    self.tell("note", text=note)
            if fault is None:
                self.wall_off(wiring)
                return
            wiring.take_down()
        raise ValueError(f"the emulated network is not as wanted: {fault}")

    def wall_off(self, wiring: Wiring) -> None:
        """Puts sites behind NAT and, if that is to be verified, looks whether it holds, and cuts to come would too."""
        cuts = {index for change in self.changes for index in change.cuts}
        watched = cuts | {site.index for site in self.sites if site.nat}
        if not watched:
            return
        cut = [replace(site, cut=site.index in cuts) for site in self.sites]
        for sites in [cut, self.sites] if cuts and self.task["verify"] else [self.sites]:
            wiring.wall_off(sites)
            fault = reach.find_fault(sites, watched, self.start_probe) if self.task["verify"] else None
            if fault is not None:
                raise ValueError(f"the emulated network is not as wanted: {fault}")

    def tell_probe(self, wiring: Wiring, mbps: list | None, rtt_ms: list | None) -> None:
        carriers = {"carrier": wiring.carrier, "congestion_control": wiring.congestion_control}
        self.tell("probe", mbps=mbps, rtt_ms=rtt_ms, **carriers)

    def start_probe(self, site: Site, command: Sequence[str]) -> subprocess.Popen:
        return self.start(site, command, os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start_sites(self) -> None:
        for site, command, environment, output in zip(
            self.sites, self.task["commands"], self.task["environments"], self.task["outputs"], strict=True
        ):
            process = self.start(
                site,
                command,
                environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            os.close(output)
            self.running[process.pid] = site
            # Exits are read by waitpid for all children, so that orphans of the sites are reaped too.
            process.returncode = 0

    def start(
        self, site: Site, command: Sequence[str], environment: Mapping[str, str], **how: Any
    ) -> subprocess.Popen:
        netns = self.wiring.namespaces[site.index] if self.wiring else None
        place = {"netns": netns, "hostname": site.name, "cwd": self.task["cwd"]}
        place["own_memory"] = self.task["own_memory"]
        script = str(Path(__file__).with_name("enter.py"))
        return subprocess.Popen(
            [sys.executable, "-I", "-S", script, json.dumps(place), *command],
            env=environment,
            pass_fds=[] if netns is None else [netns],
            **how,
        )

    def supervise(self, wake: int) -> None:
        """Until all sites have ended: reaps, obeys, changes rates, and ends those that outlive their grace."""
        while self.running:
            now = time.monotonic()
            if self.kill_at is not None and now >= self.kill_at:
                self.signal_sites(signal.SIGKILL)
                self.kill_at = now + 1
            elif self.term_at is not None and now >= self.term_at:
                self.signal_sites(signal.SIGTERM)
                self.term_at, self.kill_at = None, now + TERM_TO_KILL_S
            while self.timed and now >= self.begin + self.timed[0][0]:
                self.change_rates(self.timed.pop(0)[1])
            self.restore_lines(now)
            change_at = self.begin + self.timed[0][0] if self.timed else None
            restore_at = min(self.restore_at.values(), default=None)
            deadlines = [at for at in (self.term_at, self.kill_at, change_at, restore_at) if at is not None]
            wait = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
            ready, _, _ = select.select([0, wake], [], [], wait)
            if wake in ready:
                os.read(wake, 4096)
            if 0 in ready:
                self.obey(os.read(0, 4096))
            self.reap()
        self.end_orphans()

    def obey(self, requests: bytes) -> None:
        if not requests:
            # The lab was killed: nobody is left to wait for a grace period.
            self.signal_sites(signal.SIGKILL)
            self.end_orphans()
            if self.task["scratch"]:
                shutil.rmtree(self.task["scratch"], ignore_errors=True)
            os._exit(1)
        *lines, self.requests = (self.requests + requests).split(b"\n")
        for request in map(json.loads, lines):
            if "change" in request:
                self.change_rates(request["change"])
                continue
            self.stops += 1
            if self.stops > 1:
                self.signal_sites(signal.SIGKILL)
            else:
                self.signal_sites(request["stop"])
                self.term_at = time.monotonic() + min(self.task["grace_s"], TERM_TO_KILL_S)

    def change_rates(self, index: int) -> None:
        change = self.changes[index]
        try:
            self.become(change.applied_to(self.now))
        except LabUnavailable as reason:
            # The lab as such is available: to run without shaping, which that error suggests, would not help.
            raise ValueError(f"the rate change {change.moment} failed: {reason}") from None
        now = time.monotonic()
        self.restore_at = {site: now + cut_s for site, cut_s in change.cuts.items() if cut_s is not None}
        self.tell("changed", index=index, at_s=now - self.begin)

    def restore_lines(self, now: float) -> None:
        due = [site for site, at in self.restore_at.items() if now >= at]
        if not due:
            return
        try:
            self.become([replace(site, cut=site.cut and site.index not in due) for site in self.now])
        except LabUnavailable as reason:
            raise ValueError(f"the line of {self.sites[due[0]].name} could not be restored: {reason}") from None
        for site in due:
            del self.restore_at[site]
            self.tell("restored", site=site, at_s=time.monotonic() - self.begin)

    def become(self, sites: list[Site]) -> None:
        assert self.wiring is not None  # without shaping no change is taken
        before, self.now = self.now, sites
        if [site.bandwidth_mbps for site in before] != [site.bandwidth_mbps for site in sites]:
            self.wiring.change_rates(sites)
        if [site.cut for site in before] != [site.cut for site in sites]:
            self.wiring.wall_off(sites)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.wiring and pid in (relay.pid for relay in self.wiring.relays):
                raise ValueError("a relay process of the lab has died; the sites were stopped")
            site = self.running.pop(pid, None)
            if site is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            self.tell("exit", site=site.index, code=code, at_s=time.monotonic() - self.begin)
            if code and self.term_at is None and self.kill_at is None and self.running:
                self.term_at = time.monotonic() + self.task["grace_s"]

    def signal_sites(self, number: int) -> None:
        for pid in self.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)

    def end_orphans(self) -> None:
        """Kills what the sites left behind. In a process namespace the kernel does that when process 1 ends."""
        if self.wiring:
            return
        for _ in range(100):
            try:
                children = Path("/proc/thread-self/children").read_text().split()
            except OSError:
                return
            if not children:
                return
            for pid in map(int, children):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def main() -> None:
    # Nothing started from here may write into the stream of events by accident.
    events = os.dup(1)
    os.dup2(2, 1)
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            return
        line += piece
    supervisor = Supervisor(json.loads(line), events)
    try:
        supervisor.run()
    except LabUnavailable as reason:
        supervisor.tell("error", unavailable=True, text=str(reason))
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        supervisor.tell("error", unavailable=False, text=str(error))
    finally:
        supervisor.signal_sites(signal.SIGKILL)


if __name__ == "__main__":
    main()
