# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One of three sites that only agree on who takes part: `python -m tests.sites.assembled RANK FOLDER`.

The first process of a rank meets the others; one that is started anew knows them from what it has kept. It prints a
line of JSON for every generation that begins, and works until it is killed.
"""

import json
import sys
import time
from pathlib import Path

from geo_accel.membership.generation import Generation
from geo_accel.membership.member import Begun, Member, Record, Times
from geo_accel.sites.assembly import Assembly, read_record, write_record
from geo_accel.sites.credentials import read_credentials
from geo_accel.sites.first_bytes import number_of
from geo_accel.sites.host import Host
from geo_accel.sites.meeting import Roster
from geo_accel.sites.port import Arrivals, Port
from geo_accel.sites.ways import RosterWays, topology_of
from tests.transport.links.linked import LOOPBACK, visit

SITES = 3
TIMES = Times(beat_s=0.5, patience_s=3.0, turn_s=0.3)


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    credentials = read_credentials(folder / "run" / f"site{rank}.pem")
    kept, roster_at, port_at = folder / f"record-{rank}", folder / f"roster-{rank}", folder / f"port-{rank}"
    record = read_record(kept)
    host = Host(credentials, SITES, print) if rank == 0 else None
    meeting_of, relays = (None, None) if host is None else (host.talk, host.relays)
    port = Port(LOOPBACK, int(port_at.read_text()) if port_at.exists() else 0, meeting_of, relays)
    port_at.write_text(str(port.number))
    first = folder / "port-0"
    while not first.exists() or not first.read_text():
        time.sleep(0.05)
    meeting = (LOOPBACK, int(first.read_text()))
    if record is None:
        roster = visit(meeting, credentials, rank, port).roster
        roster_at.write_text(json.dumps(roster.to_json()))
        record = Record((Generation(1, tuple(member.name for member in roster.members)),))
        write_record(kept, record)
        holds = True
    else:
        roster, holds = Roster.from_json(json.loads(roster_at.read_text())), False
    topology = topology_of(roster, f"site{rank}", 0)
    ways = RosterWays(roster, topology, credentials, Arrivals(port.door, number_of(0, 9)), meeting, 9)
    peers = {site.name: site.ranks[0] for site in topology.sites if site.ranks[0] != rank}
    member = Member(f"site{rank}", record, holds=holds, times=TIMES, now=time.monotonic())

    def say(begun: Begun) -> None:
        one = begun.generation
        print(json.dumps([time.time(), one.number, one.members, begun.is_whole]), flush=True)
        if not begun.is_whole:  # as if it had fetched what is agreed
            assembly.do(lambda member: member.has_fetched(one.number))

    assembly = Assembly(member, ways, peers, kept, say)
    print(json.dumps([time.time(), member.number, member.members, holds]), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
