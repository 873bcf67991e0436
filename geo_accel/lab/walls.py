# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a site's interface refuses to receive: calls, where it is behind NAT, and everything, where a line is cut.

Both ways of a cut line are refused where packets arrive: whoever sends sees nothing of it, as when a fibre is cut.
The filter is a few instructions of classic BPF, for which a namespace's own rights do; ARP passes, so that no host
ever says that there is no route.
"""

from collections.abc import Sequence

from geo_accel.lab.sites import WAN_INTERFACE, Site

_PASS, _DROP = 0xFFFFFFFF, 2  # TC_ACT_UNSPEC and TC_ACT_SHOT
_LOAD_BYTE, _LOAD_HALF, _LOAD_BYTE_BEHIND_HEAD, _HEAD_LENGTH = 0x30, 0x28, 0x50, 0xB1
_AND, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x54, 0x15, 0x45, 0x06
# Offsets in an Ethernet frame, and what stands there. Addresses end with the index of the site.
_SENDER, _KIND, _IP_HEAD, _FRAGMENT, _PROTOCOL, _TCP_FLAGS = 11, 12, 14, 20, 23, 14 + 13
_IPV4, _LATER_FRAGMENT, _TCP, _SYN, _SYN_OR_ACK = 0x800, 0x1FFF, 6, 0x02, 0x12

Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if true, if false, operand."""


def wall_commands(site: Site, sites: Sequence[Site], *, action: str = "change") -> list[list[str]]:
    """The tc commands, to be run in `site`, that make it refuse what it must with `sites` as they are.

    `action` is add the first time.
    """
    program = wall(site, sites)
    code = ",".join([str(len(program)), *(" ".join(map(str, one)) for one in program)])
    entrance = ["tc", "qdisc", "add", "dev", WAN_INTERFACE, "ingress"]
    place = ["tc", "filter", "replace", "dev", WAN_INTERFACE, "parent", "ffff:", "pref", "1", "handle", "1"]
    return [*([entrance] if action == "add" else []), [*place, "bpf", "da", "bytecode", code]]


def wall(site: Site, sites: Sequence[Site]) -> list[Instruction]:
    """The filter of what arrives at `site`."""
    drop, go_on = (_RETURN, 0, 0, _DROP), (_RETURN, 0, 0, _PASS)
    program = [(_LOAD_HALF, 0, 0, _KIND), (_IF_EQUAL, 1, 0, _IPV4), go_on]
    if site.cut:
        return [*program, drop]
    gone = [other.index for other in sites if other.cut]
    if gone:
        program.append((_LOAD_BYTE, 0, 0, _SENDER))
        for index in gone:
            program += [(_IF_EQUAL, 0, 1, index), drop]
    if site.nat:
        program += [
            (_LOAD_BYTE, 0, 0, _PROTOCOL),
            (_IF_EQUAL, 1, 0, _TCP),
            go_on,
            (_LOAD_HALF, 0, 0, _FRAGMENT),
            (_IF_ANY_BIT, 0, 1, _LATER_FRAGMENT),
            go_on,
            (_HEAD_LENGTH, 0, 0, _IP_HEAD),
            (_LOAD_BYTE_BEHIND_HEAD, 0, 0, _TCP_FLAGS),
            (_AND, 0, 0, _SYN_OR_ACK),
            (_IF_EQUAL, 0, 1, _SYN),
            drop,
        ]
    return [*program, go_on]
