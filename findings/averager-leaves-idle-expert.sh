#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# torch's PeriodicModelAverager leaves out what had no gradient in the step that averages.
#
# Guess: average_parameters(model.parameters()) averages all parameters once per period.
#
# Seen: torch 2.13.0: an expert that trained apart for three steps and is not used in the fourth, the one that
# averages, keeps different weights on each rank, without a word.
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
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

dist.init_process_group("gloo")
torch.manual_seed(0)
experts = torch.nn.ModuleList(torch.nn.Linear(2, 1, bias=False) for _ in range(2))
optimizer = torch.optim.SGD(experts.parameters(), lr=0.1)
averager = PeriodicModelAverager(period=4)
for step in range(5):  # it averages in steps 0 and 4
    used = experts[:1] if step == 4 else experts
    sum(expert(torch.full((1, 2), 1.0 + dist.get_rank())) for expert in used).backward()
    optimizer.step()
    averager.average_parameters(experts.parameters())
    optimizer.zero_grad()
weights = [None, None]
dist.all_gather_object(weights, [expert.weight.tolist() for expert in experts])
seen = ["alike" if first == second else "apart" for first, second in zip(*weights)]
if dist.get_rank() == 0:
    print("seen: used in the last step:", seen[0], "- not used in it:", seen[1], flush=True)
    if seen != ["alike", "apart"]:
        print("changed:", seen, flush=True)
os._exit(seen != ["alike", "apart"])
EOF
OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=2 run.py
