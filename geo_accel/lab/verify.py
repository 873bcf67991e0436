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
from typing import Any

from geo_accel.lab.pipes import pipe
from geo_accel.lab.shaping import QUEUE_S
from geo_accel.lab.sites import WAN_INTERFACE, Site

ALLOWED_ERROR = 0.15
"""A measured rate may be off by this share of the wanted one."""

_STEP_TIMEOUT_S = 30.0
_PACKETS_FOR_A_RATE = 100
_RTT_SLACK_MS = 10.0
_SMALLEST_WINDOW_BYTES = 32 * 1024


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
    """Probes all links, at the same time if none has a downlink; `start` runs a command inside a site with pipes.

    Takes about two seconds, with downlinks up to five. Raises TimeoutError, naming the site, if a probe stops
    answering.
    """
    following = [*sites[1:], *sites[:1]]
    slowest = min(link_mbps(site, after) for site, after in zip(sites, following, strict=True))
    windows = [_window_bytes(site, after) for site, after in zip(sites, following, strict=True)]
    phases = probe_phases(sites)
    longest_rtt_s = 2 * max(site.latency_ms for site in sites) / 1000
    measure_s = max(1.0, _PACKETS_FOR_A_RATE * 1500 * 8 / (slowest * 1e6))
    # TCP needs some round trips to fill a link.
    warm_up_s = 0.3 + 15 * longest_rtt_s
    timeout_s = _STEP_TIMEOUT_S + len(phases) * (warm_up_s + measure_s)
    script = [sys.executable, "-I", "-S", str(Path(__file__).with_name("probe.py"))]
    probes = []
    try:
        for site in sites:
            task = {
                "listen": site.address,
                "peer": following[site.index].address if len(sites) > 1 else None,
                "interface": WAN_INTERFACE,
                "names": [other.name for other in sites],
                "warm_up_s": warm_up_s,
                "measure_s": measure_s,
                "window_bytes": windows[site.index],
                "give_credits": windows[site.index - 1] is not None,
                "timeout_s": timeout_s,
            }
            probes.append(start(site, [*script, json.dumps(task)]))
        answers = [Answers(site, probe) for site, probe in zip(sites, probes, strict=True)]
        visible = [one.next("counters_visible", timeout_s) for one in answers]
        unknown = [one.next("unknown_names", timeout_s) for one in answers]
        rtts: list[float | None] = [None] * len(sites)
        rates: list[float | None] = [None] * len(sites)
        if len(sites) > 1:
            rtts = [one.next("rtt_ms", timeout_s) for one in answers]
            for phase in phases:
                for site in phase:
                    answers[site.index].go_on()
                for site in phase:
                    rates[site.index] = answers[following[site.index].index].next("received_mbps", timeout_s)
            for one in answers:
                one.go_on()
    finally:
        end_probes(probes)
    notes = []
    if not all(visible):
        notes.append(f"/sys/class/net does not show {WAN_INTERFACE} inside the sites: /sys cannot be mounted here")
    if any(unknown):
        notes.append("site names do not resolve inside the sites: /etc/hosts cannot be replaced here; use addresses")
    return Measurement(mbps=rates, rtt_ms=rtts, notes=notes)


def link_mbps(sender: Site, receiver: Site) -> float:
    """The rate of the link from one site to another, in 10**6 bits per second."""
    return min(rate for rate in (sender.bandwidth_mbps, receiver.downlink_mbps) if rate is not None)


def probe_phases(sites: Sequence[Site]) -> list[list[Site]]:
    """Which sites send to their next ones at the same time.

    Where downlinks are shaped no site receives while it sends: the acknowledgements of what it sends would wait behind
    the data, long enough in a slow downlink to hold up a fast uplink.
    """
    if all(site.downlink_mbps is None for site in sites):
        return [list(sites)]
    even = sites[:-1] if len(sites) % 2 else sites
    return [phase for phase in (list(even[::2]), list(even[1::2]), list(sites[len(even) :])) if phase]


def find_fault(sites: Sequence[Site], seen: Measurement, carrier: str) -> str | None:
    """None if every link is as wanted; else one line with the first that is not."""
    for site in sites:
        rate, rtt = seen.mbps[site.index], seen.rtt_ms[site.index]
        if rate is None or rtt is None:
            continue
        after = sites[(site.index + 1) % len(sites)]
        wanted = link_mbps(site, after)
        # Loss slows TCP down far below the link's rate; that is what was asked for.
        lossy = any(one.loss_percent for one in sites)
        if rate > wanted * (1 + ALLOWED_ERROR) or (rate < wanted * (1 - ALLOWED_ERROR) and not lossy):
            reason = (
                "the relay that delays packets is too slow for more" if carrier == "relay" and rate < wanted else ""
            )
            reason = reason or ("this machine is too slow or too busy" if rate < wanted else "shaping does not hold")
            what = f"{site.name} sends" if wanted == site.bandwidth_mbps else f"{after.name} receives"
            return f"{what} {rate:.4g} Mbit/s instead of {wanted:g}: {reason}"
        wanted_rtt = site.latency_ms + after.latency_ms
        if rtt < wanted_rtt * (1 - ALLOWED_ERROR) or rtt > wanted_rtt * (1 + ALLOWED_ERROR) + _RTT_SLACK_MS:
            if lossy and rtt > wanted_rtt:
                continue
            return f"{site.name} has a round trip of {rtt:.4g} ms instead of {wanted_rtt:g}"
    return None


def _window_bytes(sender: Site, receiver: Site) -> int | None:
    """How far the probe may be ahead of the receiver: what is in flight, and half a queue before its downlink.

    TCP fills a queue that is not on its own machine until packets are lost, and what arrives after a loss is not seen
    until the lost packet has come again: with a queue of a second, that is no rate. None where nothing queues there.
    """
    mbps = link_mbps(sender, receiver)
    if mbps == sender.bandwidth_mbps:
        return None
    in_flight_s = (sender.latency_ms + receiver.latency_ms) / 1000 + QUEUE_S / 2
    return int(mbps * 1e6 / 8 * in_flight_s) + _SMALLEST_WINDOW_BYTES


class Answers:
    """The lines that one probe prints, each a JSON object with one key."""

    def __init__(self, site: Site, probe: subprocess.Popen) -> None:
        self.site, self.text = site, b""
        self.said, self.told = pipe(probe.stdout), pipe(probe.stdin)

    def next(self, key: str, timeout_s: float) -> Any:
        """What the next line says of `key`. TimeoutError, naming the site, if none comes in time."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self.text:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self.said], [], [], left)[0]
            piece = os.read(self.said.fileno(), 4096) if ready else b""
            if not piece:
                raise TimeoutError(f"the probe in {self.site.name} did not answer ({key})")
            self.text += piece
        line, _, self.text = self.text.partition(b"\n")
        return json.loads(line)[key]

    def go_on(self) -> None:
        """Sends the line that it waits for."""
        with contextlib.suppress(BrokenPipeError):
            self.told.write(b"\n")
            self.told.flush()


def end_probes(probes: Sequence[subprocess.Popen]) -> None:
    """Ends what runs in the sites: by the end of its input, else by SIGKILL."""
    for probe in probes:
        with contextlib.suppress(BrokenPipeError):
            pipe(probe.stdin).close()
        pipe(probe.stdout).close()
        try:
            probe.wait(timeout=2)
        except subprocess.TimeoutExpired:
            probe.kill()
            probe.wait()
