#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# Accelerate takes every "auto" in a DeepSpeed JSON for its own, also where DeepSpeed documents the word, and in blocks
# of others.
#
# Guess: "auto" is filled in where Accelerate knows the key; elsewhere it passes, as DeepSpeed by itself lets it.
#
# Seen: accelerate 1.15.0, deepspeed 0.19.8: deepspeed.initialize takes the JSON; accelerator.prepare raises
# "`data_types.keep_in_fp32_modules` not found in kwargs", though "auto" is that setting's documented value, and then
# the same for a block that is not DeepSpeed's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 deepspeed==0.19.8 transformers==5.23.0 accelerate==1.15.0
cat > run.py <<'EOF'
import copy
import sys

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState

CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 1},
    "data_types": {"keep_in_fp32_modules": "auto"},
    "my_tool": {"level": "auto"},
}


def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(2, 2)
    return model, torch.optim.AdamW(model.parameters())


def through_accelerate(*without: str) -> str:
    config = {key: value for key, value in copy.deepcopy(CONFIG).items() if key not in without}
    AcceleratorState._reset_state()
    accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config))
    try:
        accelerator.prepare(*parts(), torch.utils.data.DataLoader([torch.ones(2)] * 2))
    except ValueError as error:
        return str(error).split(". ")[0]
    return "taken"


deepspeed.init_distributed("gloo")
model, optimizer = parts()
deepspeed.initialize(model=model, optimizer=optimizer, config=copy.deepcopy(CONFIG))
seen = {
    "DeepSpeed": "taken",
    "Accelerate": through_accelerate(),
    "without data_types": through_accelerate("data_types"),
    "without both": through_accelerate("data_types", "my_tool"),
}
expected = {
    "DeepSpeed": "taken",
    "Accelerate": "`data_types.keep_in_fp32_modules` not found in kwargs",
    "without data_types": "`my_tool.level` not found in kwargs",
    "without both": "taken",
}
print("seen:", seen)
if seen != expected:
    sys.exit(f"changed: {seen}")
EOF
DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=1 run.py
