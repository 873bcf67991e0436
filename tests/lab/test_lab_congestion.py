# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which congestion control TCP has between sites, as their sockets say it themselves."""

import sys
from pathlib import Path

import pytest

from geo_accel.lab import run_sites

pytestmark = [pytest.mark.lab, pytest.mark.timeout(60)]

CONTROL = "/proc/sys/net/ipv4/tcp_{}_congestion_control"
# Site 1 dials as the links do; both ends say what they have, before and after they ask for BBR.
ASK = """
import socket, sys
from geo_accel.transport.links.lines import connecting, prepare

def control(link):
    return link.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode()

if sys.argv[1] == "0":
    with socket.create_server(("", 5000)) as server:
        print("ready", flush=True)
        plain, line = server.accept()[0], server.accept()[0]
        plain.recv(1)
    print(control(plain))
else:
    import time
    time.sleep(1)
    with socket.create_connection(("site0", 5000), timeout=10) as plain, socket.socket() as line:
        print(control(plain))
        prepare(line)
        line.setblocking(True)
        list(connecting(line, ("site0", 5000)))
        print(control(line))
"""


def test_sockets_have_what_the_lab_says_and_cubic_wherever_the_kernel_has_it():
    result = run_sites([sys.executable, "-c", ASK, "{rank}"], verify=False, timeout_s=40)
    assert result.exit_code == 0, result
    available = Path(CONTROL.format("available")).read_text().split()
    said = result.congestion_control
    assert said == ("cubic" if "cubic" in available else "reno")
    assert result.sites[0].output.split() == ["ready", said]
    # As root of its network a site may ask for whatever the kernel has.
    assert result.sites[1].output.split() == [said, "bbr" if "bbr" in available else said]
