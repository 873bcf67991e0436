# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What the kernel knows of this process's TCP connections, whoever opened them: gloo shows none of its own."""

import os
import socket
import stat
import struct
import sys
from contextlib import closing, suppress

# linux/tcp.h, struct tcp_info: the fields from tcpi_rto on are 32 bits wide, the first at byte 8.
_TOTAL_RETRANS = 100
_INFO_BYTES = 104


def resent_segments() -> int | None:
    """Segments that all connections of this process that are open now have sent again since each was opened.

    None where the system does not tell (anything but Linux, some sandboxes).
    """
    if not sys.platform.startswith("linux"):
        return None
    total = None
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return None
    for name in names:
        # Another thread may close it meanwhile; from here on it is looked at as a copy of our own.
        with suppress(OSError):
            number = os.dup(int(name))
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                os.close(number)
                continue
            with closing(socket.socket(fileno=number)) as copy:
                if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
                    continue
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
                if len(info) >= _INFO_BYTES:
                    total = (total or 0) + struct.unpack_from("=I", info, _TOTAL_RETRANS)[0]
    return total
