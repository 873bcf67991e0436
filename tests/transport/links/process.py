# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One of three sites as a process of its own: `python -m tests.transport.links.process OUT KEYS LISTENING`.

It does one case of the suite; then rank 2 is killed in the midst of a swap.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from geo_accel.sites.credentials import read_credentials
from geo_accel.sites.host import Host
from geo_accel.sites.port import Port
from geo_accel.sites.ways import topology_of
from geo_accel.transport.identity import Identity, Message
from geo_accel.transport.links.links import LinksTransport
from tests.transport.conformance import CASES, SITES, Case, outcome
from tests.transport.links.linked import LINES, LOOPBACK, visit, ways_of
from tests.transport.threads import DEADLINE_S

CASE = "what arrives is what was sent"
LARGE = 64 * 2**20
"""Bytes."""


def swap_while_rank_2_is_killed(transport: LinksTransport) -> None:
    if transport.topology.rank == 2:
        threading.Thread(target=_die_in_the_midst, args=(transport,), daemon=True).start()
    others = [peer for peer in transport.peers if peer != transport.topology.rank]
    rooms = {peer: torch.empty(LARGE, dtype=torch.uint8) for peer in others}
    transport.swap(
        dict.fromkeys(others, torch.zeros(LARGE, dtype=torch.uint8)), rooms, Message(Identity(kind="round"))
    )


def _die_in_the_midst(transport: LinksTransport) -> None:
    """When half has come from one of the others, or gone to one: they need not be served alike."""
    pairs = [link.pair for link in transport._links.values()]
    while all(pair.number < 1 or min(len(pair._missing), len(pair._unheard)) > 32 for pair in pairs):
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)


def _soon(file: Path, seconds: float = 60.0) -> str:
    """What `file` says, once it is there."""
    end = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return file.read_text()


def _write(file: Path, text: str) -> None:
    file.with_suffix(".new").write_text(text)
    file.with_suffix(".new").rename(file)


def main() -> None:
    rank, out, keys, listening = int(os.environ["RANK"]), Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    credentials = read_credentials(keys / f"site{rank}.pem")
    host = Host(credentials, SITES, print) if rank == 0 else None
    meeting_of, relays = (None, None) if host is None else (host.talk, host.relays)
    port = Port(LOOPBACK, 0, meeting_of, relays) if str(rank) in listening else None
    if rank == 0:
        assert port is not None
        _write(out / "port", str(port.number))
    meeting = (LOOPBACK, int(_soon(out / "port")))
    visited = visit(meeting, credentials, rank, port)
    topology = topology_of(visited.roster, f"site{rank}", 0)

    def transport(channel: int) -> LinksTransport:
        return LinksTransport(topology, DEADLINE_S, ways_of(visited, credentials, rank, port, meeting, channel), LINES)

    found = {CASE: outcome(CASES[CASE], transport(0))}
    _write(out / f"first-{rank}.json", json.dumps(found))
    found["killed"] = outcome(Case(swap_while_rank_2_is_killed, lambda outcomes: None), transport(1))
    _write(out / f"rank-{rank}.json", json.dumps(found))
    if rank == 0:
        _soon(out / "rank-1.json")  # whose relay and meeting point are here
    os._exit(0)


if __name__ == "__main__":
    main()
