# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Whether what sites say to each other would pass a public address: gloo's traffic is not encrypted.

gloo does not listen at MASTER_ADDR, where ranks only meet. It listens at the first address of the interface that it is
told, else at the first address of the host's name that is this machine's, and peers send the weights there.
"""

import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from geo_accel.config.names import AUTO

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def public_address(addresses: Iterable[str]) -> str | None:
    """The first of `addresses` (IPv4 or IPv6, in text) that the whole internet could reach; None if none is."""
    for text in addresses:
        address = ipaddress.ip_address(text.split("%")[0])
        if (getattr(address, "ipv4_mapped", None) or address).is_global:
            return text
    return None


def exposure(ways: Mapping[str, Sequence[str]]) -> str | None:
    """What is wrong with the first of `ways` (what leads there -> its addresses) that is public; None if none is."""
    for way, addresses in ways.items():
        public = public_address(addresses)
        if public is not None:
            return f"{way} is the public address {public}"
    return None


def refuse_public(found: Mapping[str, tuple[str | None, str | None]]) -> None:
    """Raises ValueError for the first exposure in `found`: rank, as people call it -> (`exposure`, `kernel`).

    Between ranks that share a kernel nothing leaves the machine, whatever its addresses are.
    """
    kernels = {kernel for _, kernel in found.values()}
    if len(kernels) == 1 and None not in kernels:
        return
    for who, (exposed, _) in found.items():
        if exposed is not None:
            raise ValueError(
                f"{who}: {exposed}, and traffic between sites is not encrypted: use a tunnel (WireGuard or the like) "
                f"and name its interface ({INTERFACE_VARIABLE}), or set resilience.allow_public_plaintext to true."
            )


def kernel() -> str | None:
    """An identity of the running kernel, the same in all its containers; None where it does not say."""
    try:
        return _BOOT_ID.read_text().strip() or None
    except OSError:
        return None


def ways_of_this_rank(interface: str, world_uses_gloo: bool) -> dict[str, list[str]]:
    """Where other ranks' bytes come in: what leads there -> its addresses.

    `interface` is the config's `link.interface`, "auto" for what torch chooses. The launcher's own group
    (`world_uses_gloo`) was made without it, and DDP has sent its first weights through that. A name that does not
    resolve and an interface that is not there are left to the launcher and to gloo.
    """
    master, told = os.environ.get("MASTER_ADDR"), os.environ.get(INTERFACE_VARIABLE)
    ways = {f"MASTER_ADDR {master}": _addresses_of_name(master)} if master else {}
    if interface != AUTO:
        ways[f"link.interface {interface}"] = _addresses_of_interface(interface)
        if not world_uses_gloo:
            return ways
    if told:
        # Several, separated by commas, share the work.
        return ways | {f"{INTERFACE_VARIABLE} {one}": _addresses_of_interface(one) for one in told.split(",")}
    name = socket.gethostname()
    return ways | {f"the host's name {name} ({INTERFACE_VARIABLE} is not set)": bound_to_host_name(name)}


def bound_to_host_name(name: str) -> list[str]:
    """Where gloo listens without an interface: the first address of `name` that is this machine's, else loopback."""
    for family, kind, protocol, _, address in _resolve(name):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
        except OSError:
            continue
        return [address[0]]
    return ["127.0.0.1"]


def _resolve(name: str) -> list[tuple]:
    try:
        return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []


def _addresses_of_name(name: str) -> list[str]:
    return sorted({address[0] for *_, address in _resolve(name)})


def _addresses_of_interface(name: str) -> list[str]:
    """Its first IPv4 address, which gloo takes; without one, all of IPv6, of which gloo takes some; [] if none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return ipv6_addresses(_IPV6_ADDRESSES.read_text() if _IPV6_ADDRESSES.exists() else "", name)
    return [socket.inet_ntoa(answer[20:24])]


def ipv6_addresses(table: str, interface: str) -> list[str]:
    """The addresses of `interface` in the kernel's `table` of IPv6 addresses (/proc/net/if_inet6)."""
    rows = [line.split() for line in table.splitlines()]
    return [str(ipaddress.IPv6Address(int(row[0], 16))) for row in rows if row and row[-1] == interface]
