# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Runs the probe in every site and decides whether the emulated links are what was asked for."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geo_accel.lab.sites import WAN_INTERFACE, Site

ALLOWED_ERROR = 0.15
"""A measured rate may be off by this share of the wanted one."""

_STEP_TIMEOUT_S = 30.0
_PACKETS_FOR_A_RATE = 100
_RTT_SLACK_MS = 10.0


@dataclass(kw_only=True, slots=True)
class Measurement:
    """What the probe saw; lists are in order of the sites."""

    mbps: list[float | None]
    """Rate at which the site's TCP payload arrived at the next site, in 10**6 bits per second."""
    rtt_ms: list[float | None]
    """Round trip from the site to the next one on idle links, in milliseconds."""
    notes: list[str] = field(default_factory=list)
    """What else is not as it should be, one line each."""


def measure(sites: Sequence[Site], start: Callable[[Site, Sequence[str]], subprocess.Popen]) -> Measurement:
    """Probes all links at the same time; `start` runs a command inside a site with pipes.

    Takes about two seconds. Raises TimeoutError, naming the site, if a probe stops answering.
    """
    slowest = min(site.bandwidth_mbps for site in sites)
    longest_rtt_s = 2 * max(site.latency_ms for site in sites) / 1000
    measure_s = max(1.0, _PACKETS_FOR_A_RATE * 1500 * 8 / (slowest * 1e6))
    # TCP needs some round trips to fill a link.
    warm_up_s = 0.3 + 15 * longest_rtt_s
    timeout_s = _STEP_TIMEOUT_S + warm_up_s + measure_s
    script = [sys.executable, "-I", "-S", str(Path(__file__).with_name("probe.py"))]
    probes = []
    try:
        for site in sites:
            task = {
                "listen": site.address,
                "peer": sites[(site.index + 1) % len(sites)].address if len(sites) > 1 else None,
                "interface": WAN_INTERFACE,
                "names": [other.name for other in sites],
                "warm_up_s": warm_up_s,
                "measure_s": measure_s,
                "timeout_s": timeout_s,
            }
            probes.append(start(site, [*script, json.dumps(task)]))
        answers = [_Answers(site, probe) for site, probe in zip(sites, probes, strict=True)]
        visible = [one.next("counters_visible", timeout_s) for one in answers]
        unknown = [one.next("unknown_names", timeout_s) for one in answers]
        rtts, rates = [None] * len(sites), [None] * len(sites)
        if len(sites) > 1:
            rtts = [one.next("rtt_ms", timeout_s) for one in answers]
            for one in answers:
                one.go_on()
            received = [one.next("received_mbps", timeout_s) for one in answers]
            rates = received[1:] + received[:1]
            for one in answers:
                one.go_on()
    finally:
        _end(probes)
    notes = []
    if not all(visible):
        notes.append(f"/sys/class/net does not show {WAN_INTERFACE} inside the sites: /sys cannot be mounted here")
    if any(unknown):
        notes.append("site names do not resolve inside the sites: /etc/hosts cannot be replaced here; use addresses")
    return Measurement(mbps=rates, rtt_ms=rtts, notes=notes)


def find_fault(sites: Sequence[Site], seen: Measurement, carrier: str) -> str | None:
    """None if every link is as wanted; else one line with the first that is not."""
    for site in sites:
        rate, rtt = seen.mbps[site.index], seen.rtt_ms[site.index]
        if rate is None:
            continue
        wanted = site.bandwidth_mbps
        # Loss slows TCP down far below the link's rate; that is what was asked for.
        lossy = any(one.loss_percent for one in sites)
        if rate > wanted * (1 + ALLOWED_ERROR) or (rate < wanted * (1 - ALLOWED_ERROR) and not lossy):
            reason = (
                "the relay that delays packets is too slow for more" if carrier == "relay" and rate < wanted else ""
            )
            reason = reason or ("this machine is too slow or too busy" if rate < wanted else "shaping does not hold")
            return f"{site.name} sends {rate:.4g} Mbit/s instead of {wanted:g}: {reason}"
        wanted_rtt = site.latency_ms + sites[(site.index + 1) % len(sites)].latency_ms
        if rtt < wanted_rtt * (1 - ALLOWED_ERROR) or rtt > wanted_rtt * (1 + ALLOWED_ERROR) + _RTT_SLACK_MS:
            if lossy and rtt > wanted_rtt:
                continue
            return f"{site.name} has a round trip of {rtt:.4g} ms instead of {wanted_rtt:g}"
    return None


class _Answers:
    """The lines that one probe prints, each a JSON object with one key."""

    def __init__(self, site: Site, probe: subprocess.Popen) -> None:
        self.site, self.probe, self.text = site, probe, b""

    def next(self, key: str, timeout_s: float) -> object:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self.text:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.probe.stdout], [], [], left)[0]
            piece = os.read(self.probe.stdout.fileno(), 4096) if ready else b""
            if not piece:
                raise TimeoutError(f"the probe in {self.site.name} did not answer ({key})")
            self.text += piece
        line, _, self.text = self.text.partition(b"\n")
        return json.loads(line)[key]

    def go_on(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.probe.stdin.write(b"\n")
            self.probe.stdin.flush()


def _end(probes: Sequence[subprocess.Popen]) -> None:
    for probe in probes:
        with contextlib.suppress(BrokenPipeError):
            probe.stdin.close()
        probe.stdout.close()
        try:
            probe.wait(timeout=2)
        except subprocess.TimeoutExpired:
            probe.kill()
            probe.wait()
