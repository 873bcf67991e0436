#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# torch.distributed over gloo adds and copies tensors by their place in memory, not by their index.
#
# Guess: all_reduce and broadcast of tensors of one shape give the right values, or an error, however each rank's
# tensor lies in memory.
#
# Seen: torch 2.13.0: where one rank's tensor is a transposed view and the other's is contiguous, both calls return
# quietly and values stand at wrong indices, other ones on each rank. all_gather is right. (pytorch issue 192920
# reports it for broadcast, reduce and scatter of strided tensors.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
cat > run.py <<'EOF'
import os

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
values = torch.arange(6.0).reshape(2, 3)


def laid_out() -> torch.Tensor:
    """The same values on both ranks; on rank 0 column after column in memory."""
    return values.t().contiguous().t() if rank == 0 else values.clone()


added, sent = laid_out(), laid_out()
gathered = [torch.zeros(2, 3), torch.zeros(2, 3)]
dist.all_reduce(added)
dist.broadcast(sent, src=0)
dist.all_gather(gathered, laid_out())
seen = [None, None]
dist.all_gather_object(seen, [added.tolist(), sent.tolist(), [one.tolist() for one in gathered]])
expected = [
    [[[0, 3, 6], [4, 7, 10]], [[0, 1, 2], [3, 4, 5]], [values.tolist()] * 2],
    [[[0, 4, 3], [7, 6, 10]], [[0, 3, 1], [4, 2, 5]], [values.tolist()] * 2],
]
if rank == 0:
    print("seen:", seen, "where 2 * values and values were meant", flush=True)
    if seen != expected:
        print("changed:", seen, flush=True)
os._exit(seen != expected)
EOF
OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=2 run.py
