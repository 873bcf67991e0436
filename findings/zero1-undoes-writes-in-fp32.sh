#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# Under DeepSpeed ZeRO-1 and 2 weights that are written into the model last until the next step, in fp32 too.
#
# Guess: in fp32 the parameters are the only copy: load_state_dict after deepspeed.initialize stays, as without ZeRO.
#
# Seen: deepspeed 0.19.8: stage 0 keeps the new weights; stages 1 and 2 hold a copy of their own, and the next step, of
# learning rate 0, puts the old weights back without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 deepspeed==0.19.8
cat > run.py <<'EOF'
import sys

import deepspeed
import torch

deepspeed.init_distributed("gloo")
seen = {}
for stage in (0, 1, 2):
    model = torch.nn.Linear(2, 2, bias=False)
    old, new = model.weight.detach().clone(), torch.full((2, 2), 7.0)
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}}
    config["zero_allow_untested_optimizer"] = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    model.load_state_dict({"weight": new})
    engine.backward(engine(torch.ones(1, 2)).sum())
    engine.step()
    seen[stage] = "new" if torch.equal(model.weight, new) else "old" if torch.equal(model.weight, old) else "other"
print("seen: weights after the step, by stage:", seen)
if seen != {0: "new", 1: "old", 2: "old"}:
    sys.exit(f"changed: {seen}")
EOF
DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=1 run.py
