# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The wires of the lab: a namespace per site, veth pairs to a hub, and what makes them slow.

Every site has one interface, `wan0`. Its egress passes `tc tbf`, which sets the rate. The other end of the veth pair
is a port in the hub, the namespace of the supervisor; what leaves the port is what the site receives, so a site's
downlink is a `tbf` there. Without latency the ports are joined by a bridge. With latency or loss, either `tc netem`
delays what leaves the site, or, in kernels without it, relay processes join the ports.
"""

import array
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from geo_accel.lab.namespaces import LabUnavailable, inside, new_network_namespace, tool_path
from geo_accel.lab.pipes import pipe
from geo_accel.lab.sites import NETWORK, WAN_INTERFACE, Site
from geo_accel.lab.walls import wall_commands

QUEUE_S = 0.1
"""How long what waits before a shaped link takes to be sent, at most, in seconds; slow links have longer queues."""

_TOOL_TIMEOUT_S = 20.0
_FRAME_BYTES = 1514
_BURST_S = 0.0026
_LARGEST_BURST_BYTES = 32 * 1024
_SMALLEST_QUEUE_BYTES = 256 * 1024
_SMALLEST_LARGE_PACKET_BYTES = 9000
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17


@dataclass(kw_only=True, slots=True)
class Wiring:
    """A shaped network that exists; it is gone when the process that made it ends."""

    carrier: str
    """What carries packets between the sites: bridge, netem or relay."""
    congestion_control: str
    """TCP's, in the sites."""
    namespaces: list[int]
    """File descriptors of the sites' network namespaces, in order of the sites."""
    relays: list[subprocess.Popen] = field(default_factory=list)
    """The relay process of each site; empty for other carriers."""
    walled: bool = False
    """Whether sites refuse packets."""

    def byte_counts(self) -> list[tuple[int, int]]:
        """The kernel's counts of bytes sent and received on each site's interface, Ethernet headers included."""
        counts = []
        for namespace in self.namespaces:
            with inside(namespace):
                counts.append(_read_counters(Path("/proc/thread-self/net/dev").read_text()))
        return counts

    def change_rates(self, sites: Sequence[Site]) -> None:
        """Gives each site the uplink it has in `sites`, in place: connections live on, queued packets stay queued."""
        for site, namespace in zip(sites, self.namespaces, strict=True):
            with inside(namespace):
                for command in queue_commands(site, netem=self.carrier == "netem", action="change"):
                    _run(command)

    def wall_off(self, sites: Sequence[Site]) -> None:
        """Lets each site receive only what it can with NAT and cut lines as in `sites`."""
        action, self.walled = "change" if self.walled else "add", True
        for site, namespace in zip(sites, self.namespaces, strict=True):
            with inside(namespace):
                for command in wall_commands(site, sites, action=action):
                    _run(command)

    def take_down(self) -> int:
        """Ends the relays, the hub's ports and the namespaces; returns the packets that relays dropped unasked."""
        dropped = 0
        for relay in self.relays:
            relay.send_signal(signal.SIGTERM)
        for relay in self.relays:
            try:
                said, _ = relay.communicate(timeout=5)
                dropped += json.loads(said)["dropped"]
            except (subprocess.TimeoutExpired, ValueError, KeyError):
                relay.kill()
        _ip(*(f"link delete port{index}" for index in range(len(self.namespaces))))
        if self.carrier != "relay":
            _ip("link delete hub")
        for namespace in self.namespaces:
            os.close(namespace)
        return dropped


def carriers_for(sites: Sequence[Site]) -> list[str]:
    """The carriers to try, in order of preference: netem costs less than the relay, but many kernels lack it."""
    if not any(site.latency_ms or site.loss_percent for site in sites):
        return ["bridge"]
    with_netem = new_network_namespace()
    try:
        with inside(with_netem):
            _run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
    except LabUnavailable:
        return ["relay"]
    finally:
        os.close(with_netem)
    return ["netem", "relay"]


def wire(sites: Sequence[Site], carrier: str, later: Sequence[Sequence[Site]] = ()) -> Wiring:
    """Builds the network in the caller's network namespace, which becomes the hub.

    `later` holds the sites as they will be after each change of their rates. Windows and relays are made for the
    highest rate of a site, packets for the lowest.

    Raises LabUnavailable, with the words of the tool that refused, where the kernel lacks something.
    """
    states = list(zip(sites, *later, strict=True))
    rate = attrgetter("uplink_mbps")
    fastest, slowest = [max(one, key=rate) for one in states], [min(one, key=rate) for one in states]
    namespaces = [new_network_namespace() for _ in sites]
    _silence_ipv6()
    lines = [] if carrier == "relay" else ["link add hub type bridge", "link set hub up"]
    for site in sites:
        port, peer = f"port{site.index}", f"{WAN_INTERFACE}s{site.index}"
        lines += [f"link add {port} type veth peer name {peer}", f"link set {port} up"]
        if carrier != "relay":
            lines.append(f"link set {port} master hub")
    _ip(*lines)
    for site in sites:
        if site.downlink_mbps is not None:
            _run(rate_command(f"port{site.index}", site.downlink_mbps))
    congestion_control = ""
    for site, namespace in zip(sites, namespaces, strict=True):
        _run(
            ["ip", "link", "set", f"{WAN_INTERFACE}s{site.index}", "netns", f"/proc/self/fd/{namespace}"],
            pass_fds=[namespace],
        )
        with inside(namespace):
            _silence_ipv6()
            _ip(
                "link set lo up",
                f"link set {WAN_INTERFACE}s{site.index} name {WAN_INTERFACE}",
                f"link set {WAN_INTERFACE} address {mac_address(site)} up",
                f"address add {site.address}/24 dev {WAN_INTERFACE}",
            )
            _limit_packets(slowest[site.index], changing=bool(later))
            for command in queue_commands(site, netem=carrier == "netem"):
                _run(command)
            congestion_control = _tune_tcp(site, fastest)
            if carrier == "relay":
                _compute_checksums_in_software()
    wiring = Wiring(carrier=carrier, congestion_control=congestion_control, namespaces=namespaces)
    if carrier == "relay":
        wiring.relays = [_start_relay(site, fastest) for site in fastest]
    return wiring


def queue_commands(site: Site, *, netem: bool, action: str = "add") -> list[list[str]]:
    """The tc commands that shape a site's egress, to be run inside it; `action` is add, or later change."""
    if not netem:
        return [rate_command(WAN_INTERFACE, site.uplink_mbps, action=action)]
    packets = int(site.uplink_mbps * 1e6 / 8 * site.latency_ms / 1000 / 500) + 10_000
    delay = ["netem", "delay", f"{site.latency_ms:g}ms", "loss", f"{site.loss_percent:g}%", "limit", str(packets)]
    place = ("parent", "1:1", "handle", "2:")
    return [
        ["tc", "qdisc", action, "dev", WAN_INTERFACE, "root", "handle", "1:", *delay],
        rate_command(WAN_INTERFACE, site.uplink_mbps, place=place, action=action),
    ]


def rate_command(device: str, mbps: float, *, place: Sequence[str] = ("root",), action: str = "add") -> list[str]:
    """The tc command that lets `device` send `mbps`, in 10**6 bits per second; `place` is where its queue hangs."""
    # A burst goes out at the machine's own speed, so it must be small beside the smallest message of interest
    # (64 KiB), and yet bridge the lateness of the kernel's timer. tbf splits larger packets by itself.
    shaper = ["tbf", "rate", f"{int(mbps * 1e6)}bit", "burst", str(burst_bytes(mbps)), "limit", str(queue_bytes(mbps))]
    return ["tc", "qdisc", action, "dev", device, *place, *shaper]


def queue_bytes(mbps: float) -> int:
    """How much waits, at most, before a link of `mbps`, in 10**6 bits per second."""
    return max(_SMALLEST_QUEUE_BYTES, int(mbps * 1e6 / 8 * QUEUE_S))


def burst_bytes(mbps: float) -> int:
    """How much may leave at once, faster than the rate `mbps`, in 10**6 bits per second.

    Smaller bursts shape short messages better, but at 100 Mbit/s one of 2.5 kB cost the sites a quarter of their
    computing time in timer interrupts and small packets; this one costs them a few percent.
    """
    return max(2 * _FRAME_BYTES, min(_LARGEST_BURST_BYTES, int(mbps * 1e6 / 8 * _BURST_S)))


def mac_address(site: Site) -> str:
    """A locally administered address; its last byte is the index of the site, which relays read."""
    return f"02:00:0a:4d:00:{site.index:02x}"


def _limit_packets(site: Site, *, changing: bool) -> None:
    """How large the packets are that TCP hands over, for a site at its lowest rate."""
    burst = burst_bytes(site.uplink_mbps)
    if burst >= _SMALLEST_LARGE_PACKET_BYTES:
        # Packets that need no splitting by tbf save the machine most of its work at such rates.
        _ip(f"link set {WAN_INTERFACE} gso_max_size {burst * 7 // 10}")
    elif changing:
        # tbf splits on arrival what exceeds its burst. A packet that waits when the burst becomes smaller than itself
        # is never sent, nor is anything behind it.
        _ip(f"link set {WAN_INTERFACE} gso_max_segs 1")


def _silence_ipv6() -> None:
    """Keeps the kernel's neighbour discovery out of the byte counts."""
    for which in ("all", "default"):
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")


def _tune_tcp(site: Site, sites: Sequence[Site]) -> str:
    """Gives `site` the windows that a host on such a WAN would have; returns its congestion control."""
    fastest = max(site.uplink_mbps for site in sites) * 1e6 / 8
    longest_s = 2 * max(site.latency_ms for site in sites) / 1000 + QUEUE_S
    folder = Path("/proc/sys/net/ipv4")
    settings = {}
    for name in ("tcp_rmem", "tcp_wmem"):
        smallest, usual, largest = (int(word) for word in (folder / name).read_text().split())
        settings[name] = f"{smallest} {usual} {max(largest, int(2 * fastest * longest_s))}"
    for name, value in settings.items():
        # With a read-only /proc/sys the machine's own settings hold, and the probe judges the result.
        with contextlib.suppress(OSError):
            (folder / name).write_text(value)
    return _choose_congestion_control(site)


def _choose_congestion_control(site: Site) -> str:
    """Cubic on the way to the other sites, where this kernel lets a namespace have it, else reno; returns which."""
    # Neither BBR's reading of an emulated link nor its pauses belong in figures that others should see again.
    folder, network = Path("/proc/sys/net/ipv4"), f"{NETWORK} dev {WAN_INTERFACE}"
    for algorithm in ("cubic", "reno"):
        with contextlib.suppress(OSError):
            (folder / "tcp_congestion_control").write_text(algorithm)
            break
        # Some kernels keep cubic for those with rights on the host, but a route may name whatever they have.
        if algorithm in (folder / "tcp_available_congestion_control").read_text().split():
            with contextlib.suppress(LabUnavailable):
                _ip(f"route change {network} proto kernel scope link src {site.address} congctl {algorithm}")
                return algorithm
    return (folder / "tcp_congestion_control").read_text().strip()


def _compute_checksums_in_software() -> None:
    """Relays pass packets on byte by byte: they must be whole, with checksums, and no larger than a frame."""
    request = array.array("B", struct.pack("II", _ETHTOOL_STXCSUM, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP", WAN_INTERFACE.encode(), request.buffer_info()[0]))


def _start_relay(site: Site, sites: Sequence[Site]) -> subprocess.Popen:
    in_flight = site.uplink_mbps * 1e6 / 8 * site.latency_ms / 1000 / _FRAME_BYTES
    others = [other for other in sites if other is not site]
    task = {
        "listen": f"port{site.index}",
        "ports": {str(other.index): f"port{other.index}" for other in others},
        "queues": {
            str(other.index): queue_bytes(other.downlink_mbps) for other in others if other.downlink_mbps is not None
        },
        "delay_s": site.latency_ms / 1000,
        "loss": site.loss_percent / 100,
        "frames": int(2 * in_flight) + 8192,
    }
    relay = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("relay.py")), json.dumps(task)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if pipe(relay.stdout).readline().strip() != "ready":
        raise LabUnavailable(f"the relay that delays {site.name} could not start; its message is above")
    return relay


def _read_counters(table: str) -> tuple[int, int]:
    for line in table.splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == WAN_INTERFACE:
            words = numbers.split()
            return int(words[8]), int(words[0])
    raise AssertionError(f"{WAN_INTERFACE} is not in the site's namespace")


def _ip(*lines: str) -> None:
    _run(["ip", "-batch", "-"], text_in="\n".join(lines) + "\n")


def _run(command: Sequence[str], *, text_in: str = "", pass_fds: Sequence[int] = ()) -> None:
    done = subprocess.run(
        command,
        input=text_in,
        env={**os.environ, "PATH": tool_path()},
        pass_fds=pass_fds,
        capture_output=True,
        text=True,
        timeout=_TOOL_TIMEOUT_S,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LabUnavailable(f"'{' '.join(command)}' failed: {said[0] if said else done.returncode}")
