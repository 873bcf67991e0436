# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Becomes a command inside one site: enters its network, takes its host name, shows its /sys, then executes.

Run as a script, outside the package, so that starting a site imports nothing:
    python -I -S enter.py '{"netns": 7, "hostname": "site0", "cwd": "/somewhere", "own_memory": false}' COMMAND ARGS...
A null `netns` only changes the folder and ties the command's life to its parent's. With `own_memory` the site shares
no memory with others under a name, as machines do not.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC_PRIVATE = 0x44000
MNT_DETACH = 2
READ_ONLY_PLAIN = 0xF  # read-only, no set-uid programs, no devices, no execution: what /sys has in containers
PLAIN = 0x6  # no set-uid programs, no devices
PR_SET_PDEATHSIG = 1


def main() -> None:
    place, command = json.loads(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if place["netns"] is not None:
        _enter(libc, place["netns"], place["hostname"])
        if place["own_memory"] and os.path.isdir("/dev/shm"):
            # DeepSpeed names its buffers after user, address and port, which are the same in every site.
            _check(libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", ctypes.c_ulong(PLAIN), b"mode=1777"), "mount")
    try:
        os.chdir(place["cwd"])
        os.execvp(command[0], command)
    except OSError as error:
        print(f"geo-accel lab: cannot start {command[0]!r}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _enter(libc: ctypes.CDLL, netns: int, hostname: str) -> None:
    _check(libc.setns(netns, CLONE_NEWNET), "setns")
    os.set_inheritable(netns, False)
    _check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS), "unshare")
    socket.sethostname(hostname)
    # Masked /sys, as in many containers, forbids this; the site then still works, only without its counters in /sys.
    # The supervisor learns of it from the probe.
    with contextlib.suppress(OSError):
        _show_own_interfaces(libc)


def _show_own_interfaces(libc: ctypes.CDLL) -> None:
    _check(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None), "mount")
    # Only the two folders about interfaces are replaced: hiding all of /sys would hide cgroups and devices too.
    _check(libc.mount(b"sysfs", b"/tmp", b"sysfs", ctypes.c_ulong(READ_ONLY_PLAIN), None), "mount")
    try:
        for folder in (b"/class/net", b"/devices/virtual/net"):
            _check(libc.mount(b"/tmp" + folder, b"/sys" + folder, None, ctypes.c_ulong(MS_BIND), None), "mount")
    finally:
        libc.umount2(b"/tmp", MNT_DETACH)


def _check(result: int, name: str) -> None:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


if __name__ == "__main__":
    main()
