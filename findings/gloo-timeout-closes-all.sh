#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# A gloo receive that times out closes the connections to healthy ranks too.
#
# Guess: the receive from the late rank fails alone; a message from another rank still arrives.
#
# Seen: torch 2.13.0: after a wait of 1 s for rank 1 has timed out, the receive from rank 2 fails at once ("Application
# timeout caused pair closure"), and so does rank 2's send. A group of its own for each wait keeps them apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
cat > run.py <<'EOF'
import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist

dist.init_process_group("gloo", timeout=timedelta(seconds=60))
rank, tensor = dist.get_rank(), torch.ones(2)
apart = dist.new_group([0, 2])
dist.all_reduce(tensor)
dist.barrier(apart)
seen = []


def tell(what: str, call) -> None:
    try:
        call()
        seen.append(f"{what}: arrived")
    except RuntimeError as error:
        known = [words for words in ("pair closure", "Timed out") if words in str(error)]
        seen.append(f"{what}: {known[0] if known else error}")


if rank == 0:
    late = dist.irecv(tensor, src=1)
    tell("from rank 1, which is late", lambda: late.wait(timedelta(seconds=1)))
    tell("from rank 2", lambda: dist.recv(tensor, src=2))
    tell("from rank 2 in another group", lambda: dist.recv(tensor, src=2, group=apart))
    expected = ["from rank 1, which is late: Timed out", "from rank 2: pair closure"]
    expected += ["from rank 2 in another group: arrived"]
    print("seen:", seen, flush=True)
    if seen != expected:
        print("changed:", seen, flush=True)
    os._exit(seen != expected)
if rank == 2:
    time.sleep(2)
    try:
        dist.send(tensor, dst=0)
    except RuntimeError as error:
        print("rank 2's send:", str(error)[:160], flush=True)
    dist.send(tensor, dst=0, group=apart)
time.sleep(8)  # whoever leaves closes its connections too
os._exit(0)
EOF
OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=3 run.py
