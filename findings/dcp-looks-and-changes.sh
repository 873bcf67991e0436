#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# Asking torch.distributed.checkpoint for the state of a fresh optimizer changes how it trains.
#
# Guess: get_optimizer_state_dict only reads; saving before the first step changes nothing.
#
# Seen: torch 2.13.0: it takes a step with gradients of zero to fill the state, and Adam's step counter stays at 1. The
# first real step is 0.744 of what it is without the look: bias correction divides by (1 - beta^2). (pytorch issue
# 164929.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
cat > run.py <<'EOF'
import sys

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict


def first_step(look: bool) -> tuple[float, int]:
    """How far the first step moves a weight, and the counter after it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    before = model.weight.detach().clone()
    if look:
        get_optimizer_state_dict(model, optimizer)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return round((model.weight - before).abs().mean().item(), 4), int(optimizer.state[model.weight]["step"])


seen = {"not looked": first_step(False), "looked": first_step(True)}
print("seen:", seen)
if seen != {"not looked": (0.1, 1), "looked": (0.0744, 2)}:
    sys.exit(f"changed: {seen}")
EOF
OMP_NUM_THREADS=1 venv/bin/python run.py
