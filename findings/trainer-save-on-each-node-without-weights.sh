#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# Trainer's save_on_each_node writes no weights on the second node.
#
# Guess: with save_on_each_node every node's own disk has a checkpoint to resume from.
#
# Seen: transformers 5.23.0: the second node's checkpoint has optimizer, scheduler and trainer state, but neither
# model.safetensors nor config.json: save_pretrained writes on the job's rank 0 only, whatever is_main_process it is
# given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0
cat > run.py <<'EOF'
import os
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

config = LlamaConfig(num_hidden_layers=1, num_attention_heads=1, hidden_size=8, intermediate_size=8, vocab_size=11)
row = {"input_ids": torch.arange(8), "labels": torch.arange(8)}
disk = Path(f"disk{os.environ['GROUP_RANK']}")  # each node's own
options = {"per_device_train_batch_size": 1, "max_steps": 2, "save_steps": 2, "save_on_each_node": True}
arguments = TrainingArguments(str(disk), use_cpu=True, report_to=[], disable_tqdm=True, **options)
Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=[row] * 8).train()
names = ("model.safetensors", "config.json", "optimizer.pt", "trainer_state.json")
seen = [None, None]
dist.all_gather_object(seen, [(disk / "checkpoint-2" / name).exists() for name in names])
expected = [[True] * 4, [False, False, True, True]]
if arguments.process_index == 0:
    print("seen:", names, "on each node:", seen, flush=True)
    if seen != expected:
        print("changed:", seen, flush=True)
os._exit(seen != expected)
EOF
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
node() { venv/bin/torchrun --nnodes=2 --node-rank="$1" --master-addr=127.0.0.1 --master-port="$port" run.py; }
node 1 & other=$!
node 0 && wait "$other"
