# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Swaps of one size between two sites, timed: what a line carries, and what carrying costs.

Started once per site; over links where the lab starts a job per site, else over gloo, or with --plain over one bare
connection. Writes `rank-R.json` into --out: the seconds of each swap, and this process's processor seconds over all
but the first, which opens the line. Runs with other checkouts on the path too, as early as 67aebb6.
"""

import argparse
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

PAUSE_S = 0.2
"""Between swaps, as between the rounds of a run whose line keeps up."""
_DEADLINE_S = 300.0

Swap = Callable[[torch.Tensor, torch.Tensor], None]


def over_links() -> tuple[int, Swap]:
    """This site's rank, and what swaps a payload for what fills a room."""
    from geo_accel.config.schema import MeetConfig
    from geo_accel.sites.invitation import invitation_of
    from geo_accel.sites.joining import join
    from geo_accel.transport.identity import Identity, Message
    from geo_accel.transport.patience import Patience

    invitation = invitation_of(MeetConfig(), os.environ)
    assert invitation is not None
    joined = join(invitation, _DEADLINE_S, os.environ)
    transport, rank = joined.connect(_DEADLINE_S, Patience(_DEADLINE_S)).transport, joined.topology.rank
    return rank, lambda out, into: transport.swap({1 - rank: out}, {1 - rank: into}, Message(Identity(kind="round")))


def over_gloo() -> tuple[int, Swap]:
    """The same in one job over both sites."""
    import torch.distributed as dist

    from geo_accel.topology import Site, Topology
    from geo_accel.transport.gloo import GlooTransport

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    sites = tuple(Site(name=f"site{place}", ranks=(place,)) for place in range(2))
    transport = GlooTransport(Topology(sites=sites, rank=rank), _DEADLINE_S)
    more: tuple[object, ...] = ()
    try:
        from geo_accel.transport.identity import Identity, Message
    except ImportError:
        pass  # before messages said what they are
    else:
        more = (Message(Identity(kind="round")),)
    return rank, lambda out, into: transport.swap({1 - rank: out}, {1 - rank: into}, *more)


def over_plain() -> tuple[int, Swap]:
    """The same over one connection without encryption or checksum, a thread for each direction: the floor."""
    rank, address = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1)
    if rank == 0:
        with socket.create_server(address) as server:
            connection, _ = server.accept()
    else:
        until = time.monotonic() + _DEADLINE_S
        while True:
            try:
                connection = socket.create_connection(address, timeout=_DEADLINE_S)
                break
            except OSError:
                assert time.monotonic() < until, "nobody listens"
                time.sleep(0.1)
        connection.settimeout(None)

    def swap(out: torch.Tensor, into: torch.Tensor) -> None:
        sending = threading.Thread(target=connection.sendall, args=(out.numpy().data,))
        sending.start()
        room = into.numpy().data
        while room:
            count = connection.recv_into(room, len(room), socket.MSG_WAITALL)
            assert count, "the other end has closed"
            room = room[count:]
        sending.join()

    return rank, swap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nbytes", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    in_job = "GEO_ACCEL_MEET" in os.environ
    rank, swap = over_plain() if options.plain else over_links() if in_job else over_gloo()
    payload = torch.randint(255, (options.nbytes,), dtype=torch.uint8)
    room = torch.zeros(options.nbytes, dtype=torch.uint8)
    seconds, spent_s = [], 0.0
    for number in range(options.count + 1):
        time.sleep(PAUSE_S)
        began, spent = time.perf_counter(), time.process_time()
        swap(payload, room)
        seconds.append(time.perf_counter() - began)
        spent_s += (time.process_time() - spent) * (number > 0)
    assert room.any()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"rank-{rank}.json").write_text(json.dumps({"seconds": seconds, "processor_s": spent_s}))


if __name__ == "__main__":
    main()
