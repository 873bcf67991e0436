# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Stands where the lab starts a site's worker: `python -I -S fork_client.py SOCKET MODULE ...`, without imports.

Asks at SOCKET for a fork with this process's environment, folder, output and namespaces, lives as long as that does,
and ends as it did. When this process is killed, so is the fork.
"""

import json
import os
import socket
import sys

NAMESPACES = ("user", "net", "uts")
"""What a fork enters, in that order. Not the site's view of files: its /proc does not show who is outside."""


def main() -> None:
    path, module, *arguments = sys.argv[1:]
    request = {"module": module, "arguments": arguments, "environ": dict(os.environ), "cwd": os.getcwd()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as life:
        life.connect(path)
        spaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
        socket.send_fds(life, [json.dumps(request).encode()], [1, *spaces])
        code = json.loads(life.recv(1024))["returncode"]
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
