#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# A TCPStore whose address is given in numbers asks DNS for names, of both ends of every connection, and waits for them.
#
# Guess: nothing is asked: an address in numbers needs no name, and names are for messages of errors that do not come.
#
# Seen: torch 2.13.0: every connection, clones of a store included, looks up the names of its two addresses before it is
# used. Where there is no answer it waits as long as the resolver does, 5 s by default, and goes on without.
#
# Needs Linux namespaces (unshare) and ip: the name server that counts is this script's own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
echo "nameserver 127.0.0.1" > resolv.conf
echo "hosts: files dns" > nsswitch.conf
: > hosts
cat > run.py <<'EOF'
import os
import socket
import sys
import threading
import time

from torch.distributed import TCPStore

asked = []


def answer(server: socket.socket) -> None:
    """No such name, to every question."""
    while True:
        query, who = server.recvfrom(512)
        place, labels = 12, []
        while query[place]:
            labels.append(query[place + 1 : place + 1 + query[place]].decode())
            place += 1 + query[place]
        asked.append(".".join(labels))
        server.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12 : place + 5], who)


server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
threading.Thread(target=answer, args=(server,), daemon=True).start()
store = TCPStore("127.0.0.2", 29500, is_master=True, wait_for_workers=False)
store.set("key", "value")
counts = [len(asked)]
for _ in range(3):
    store.clone().get("key")
    counts.append(len(asked))
time.sleep(0.2)
print(f"seen: names asked for: {sorted(set(asked))}; questions after each connection: {counts}", flush=True)
as_known = all(name.endswith(".arpa") for name in asked) and counts == sorted(set(counts)) and counts[0] > 0
print("as known" if as_known else f"changed: {counts} {asked}", flush=True)
sys.stdout.flush()
os._exit(not as_known)
EOF
unshare --map-root-user --mount --net bash -c '
    ip link set lo up
    for file in resolv.conf nsswitch.conf hosts; do mount --bind "$file" "/etc/$file"; done
    exec venv/bin/python run.py'
