# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a site of the lab is: its name, its address, its link, its command line and its environment."""

import ipaddress
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WAN_INTERFACE = "wan0"
"""Name of every site's one network interface besides loopback."""

NETWORK = ipaddress.ip_network("10.77.0.0/24")
"""Where the sites' addresses are."""

MASTER_PORT = 29500
"""Where torch's ranks meet in the lab's own network."""

_LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "GROUP_RANK",
    "LOCAL_SIZE",
)


@dataclass(kw_only=True, slots=True)
class Site:
    """One site of an emulated WAN."""

    index: int
    """0-based; also the machine rank of the site."""
    name: str
    """site0, site1, ...; also the site's host name when it runs in a namespace."""
    address: str
    """IPv4 address, known inside the lab only."""
    bandwidth_mbps: float | None
    """What the site may send, in 10**6 bits per second; None without shaping."""
    latency_ms: float = 0.0
    """One-way delay of everything the site sends, in milliseconds."""
    loss_percent: float = 0.0
    """Share of the packets sent by the site that are lost."""
    downlink_mbps: float | None = None
    """What the site may receive, in 10**6 bits per second; None: as much as the others send."""
    nat: bool = False
    """Whether it can dial the others over TCP, but cannot be dialled."""
    cut: bool = False
    """Whether its line is cut: what it sends and what others send to it is lost."""

    @property
    def uplink_mbps(self) -> float:
        """`bandwidth_mbps` of a site that is shaped."""
        assert self.bandwidth_mbps is not None
        return self.bandwidth_mbps


def make_sites(
    count: int,
    *,
    bandwidth_mbps: float | Sequence[float] = 100.0,
    latency_ms: float | Sequence[float] = 0.0,
    loss_percent: float | Sequence[float] = 0.0,
    downlink_mbps: float | Sequence[float] | None = None,
    nat: Sequence[int | str] = (),
    shaping: bool = True,
) -> list[Site]:
    """Describes `count` sites; a single number holds for every site, a sequence gives one number per site.

    `bandwidth_mbps` is what a site may send, `downlink_mbps` what it may receive (None: no limit of its own), both in
    10**6 bits per second; delay (milliseconds, one way) and loss are those of what it sends. `nat` are the sites, by
    name or number, that cannot be dialled.

    Raises ValueError, naming the setting and what is allowed, for values that cannot work.
    """
    if not 1 <= count <= 250:
        raise ValueError(f"sites: {count} given; a lab has 1 to 250 sites")
    bandwidths = bandwidth_per_site("bandwidth_mbps", bandwidth_mbps, count)
    latencies = _per_site("latency_ms", latency_ms, count, lowest=0, highest=10_000)
    losses = _per_site("loss_percent", loss_percent, count, lowest=0, highest=50)
    if not shaping and (any(latencies) or any(losses)):
        raise ValueError("latency and loss need shaping: leave out --no-shaping, or --latency-ms and --loss-percent")
    downlinks = [None] * count
    if downlink_mbps is not None:
        downlinks = bandwidth_per_site("downlink_mbps", downlink_mbps, count)
        if not shaping:
            raise ValueError("downlink_mbps needs shaping: leave out --no-shaping or --downlink-mbps")
    behind = {_index_of(one, count) for one in nat}
    if behind and not shaping:
        raise ValueError("nat needs shaping: leave out --no-shaping or --nat")
    if len(behind) == count:
        raise ValueError(f"nat: all {count} sites given; one at least must be one that others can dial")
    first = int(NETWORK.network_address) + 1
    return [
        Site(
            index=index,
            name=f"site{index}",
            address=str(ipaddress.ip_address(first + index)) if shaping else "127.0.0.1",
            bandwidth_mbps=bandwidths[index] if shaping else None,
            latency_ms=latencies[index],
            loss_percent=losses[index],
            downlink_mbps=downlinks[index],
            nat=index in behind,
        )
        for index in range(count)
    ]


def site_command(command: Sequence[str], site: Site, sites: Sequence[Site]) -> list[str]:
    """The command of one site: `{rank}`, `{sites}`, `{master}` and `{site}` filled in, other braces untouched."""
    values = {
        "{rank}": str(site.index),
        "{sites}": str(len(sites)),
        "{master}": sites[0].address,
        "{site}": site.name,
    }
    filled = []
    for argument in command:
        for token, value in values.items():
            argument = argument.replace(token, value)
        filled.append(argument)
    return filled


def site_environment(
    site: Site, sites: Sequence[Site], *, ranks_per_site: int, master_port: int, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one site's command, made from `base`.

    With one rank per site it is what `accelerate launch --cpu --num_machines N --machine_rank r` and
    `torch.distributed` expect; with more, torchrun inside the site sets ranks, and stale ones are removed.
    """
    environment = plain_environment(base)
    shaped = site.bandwidth_mbps is not None
    environment.update(
        MASTER_ADDR=sites[0].address,
        MASTER_PORT=str(master_port),
        NODE_RANK=str(site.index),
        GROUP_RANK=str(site.index),
        GLOO_SOCKET_IFNAME=WAN_INTERFACE if shaped else "lo",
        # DeepSpeed's shared-memory all-reduce would go around the network if it took all ranks for local ones.
        LOCAL_SIZE=str(ranks_per_site),
    )
    if ranks_per_site == 1:
        environment.update(RANK=str(site.index), WORLD_SIZE=str(len(sites)), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    return environment


def plain_environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` without what a launcher left there, and with what all that runs in the lab gets."""
    environment = {name: value for name, value in base.items() if name not in _LAUNCHER_VARIABLES}
    environment["GEO_ACCEL_LAB"] = "1"
    environment.setdefault("OMP_NUM_THREADS", "1")
    # Sites write to pipes: without this, Python would show their lines late.
    environment.setdefault("PYTHONUNBUFFERED", "1")
    return environment


def choose_port(usual: int, shaping: bool) -> int:
    """A TCP port to meet at: the usual one in the lab's own network, a free one on the shared loopback."""
    if shaping:
        return usual
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def bandwidth_per_site(name: str, value: float | Sequence[float], count: int) -> list[float]:
    """A rate for each of `count` sites, in 10**6 bits per second, from one for all or one per site.

    Raises ValueError, beginning with `name`, for rates that the lab cannot make.
    """
    return _per_site(name, value, count, lowest=0.1, highest=100_000)


def _index_of(site: int | str, count: int) -> int:
    for index in range(count):
        if str(site) in (str(index), f"site{index}"):
            return index
    raise ValueError(f"nat: {site!r} given; the sites are site0 to site{count - 1}, or 0 to {count - 1}")


def _per_site(name: str, value: float | Sequence[float], count: int, *, lowest: float, highest: float) -> list[float]:
    values = [float(value)] * count if isinstance(value, (int, float)) else [float(one) for one in value]
    if len(values) == 1:
        values = values * count
    if len(values) != count:
        raise ValueError(f"{name}: {len(values)} values for {count} sites; give one for all or one per site")
    for one in values:
        if not (math.isfinite(one) and lowest <= one <= highest):
            raise ValueError(f"{name}: {one:g} given; allowed are {lowest:g} to {highest:g}")
    return values
