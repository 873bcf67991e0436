#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# accelerate.LocalSGD averages weights that do not train.
#
# Guess: what requires no gradient is alike everywhere and is not sent.
#
# Seen: accelerate 1.15.0: every parameter is reduced, frozen ones too (with LoRA, the whole base model each time),
# while running statistics of BatchNorm, which do differ, are not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cat > run.py <<'EOF'
import os

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.local_sgd import LocalSGD

accelerator = Accelerator(cpu=True)
torch.manual_seed(accelerator.process_index)
model = torch.nn.Sequential(torch.nn.Linear(1000, 10), torch.nn.BatchNorm1d(10))
model[0].requires_grad_(False)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
model, optimizer = accelerator.prepare(model, optimizer)
reduced, all_reduce = [], dist.all_reduce


def counting(tensor: torch.Tensor, *args, **kwargs):
    reduced.append(tensor.numel())
    return all_reduce(tensor, *args, **kwargs)


dist.all_reduce = counting
with LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=2) as local_sgd:
    for _ in range(2):
        accelerator.backward(model(torch.randn(4, 1000)).square().sum())
        optimizer.step()
        optimizer.zero_grad()
        local_sgd.step()
    now = list(reduced)
means = accelerator.gather(model.module[1].running_mean[None]).tolist()
seen = (now, "statistics alike" if means[0] == means[1] else "statistics apart")
expected = ([10_000, 10, 10, 10], "statistics apart")
if accelerator.is_main_process:
    print("seen: numbers reduced:", *seen, "(20 of the 10,030 train)", flush=True)
    if seen != expected:
        print("changed:", seen, flush=True)
accelerator.wait_for_everyone()
os._exit(seen != expected)
EOF
OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=2 run.py
