#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# Accelerate's unwrap_model ends gradient accumulation's silence where DDP is compiled; Trainer's label smoothing calls
# it.
#
# Guess: unwrap_model reads. Accumulating over 4 micro-batches reduces gradients in the last one only.
#
# Seen: accelerate 1.15.0, transformers 5.23.0, torch 2.13.0: it puts the bare model into the compiled module, which no
# longer finds DDP's no_sync; forward still goes through DDP, so every micro-batch reduces. With Trainer, torch_compile
# and label_smoothing_factor > 0 that is every step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0
cat > run.py <<'EOF'
import os
import tempfile

import torch
import torch.distributed as dist
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

accelerator = Accelerator(cpu=True, dynamo_backend="eager", gradient_accumulation_steps=4)
issued = lambda: dist.group.WORLD._get_sequence_number_for_group()  # noqa: E731
model = accelerator.prepare(torch.nn.Linear(4, 4))


def one_step() -> list[bool]:
    """Which of its four micro-batches talk."""
    talks = []
    for _ in range(4):
        with accelerator.accumulate(model):
            before = issued()
            accelerator.backward(model(torch.ones(2, 4)).sum())
            talks.append(issued() > before)
    return talks


for _ in range(2):  # in which DDP settles its buckets
    one_step()
seen = {"before": one_step()}
accelerator.unwrap_model(model)
seen["after"] = one_step()


class Counting(Trainer):
    def training_step(self, *args, **kwargs):
        before = issued()
        loss = super().training_step(*args, **kwargs)
        talks.append(issued() > before)
        return loss


config = LlamaConfig(num_hidden_layers=1, num_attention_heads=1, hidden_size=8, intermediate_size=8, vocab_size=11)
row = {"input_ids": torch.arange(8), "labels": torch.arange(8)}
for smoothing in (0.0, 0.1):
    talks = []
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "max_steps": 3, "use_cpu": True}
    options |= {"torch_compile_backend": "eager", "label_smoothing_factor": smoothing, "report_to": []}
    options |= {"average_tokens_across_devices": False, "save_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(tempfile.mkdtemp(), **options)
    Counting(model=LlamaForCausalLM(config), args=arguments, train_dataset=[row] * 24).train()
    seen[f"Trainer, smoothing {smoothing}"] = talks[5:8]  # not the first micro-batch, which also settles buffers
expected = {"before": [False] * 3 + [True], "after": [True] * 4}
expected |= {"Trainer, smoothing 0.0": [False, False, True], "Trainer, smoothing 0.1": [True] * 3}
if accelerator.is_main_process:
    print("seen:", seen, flush=True)
    if seen != expected:
        print("changed:", seen, flush=True)
accelerator.wait_for_everyone()
os._exit(seen != expected)
EOF
ACCELERATE_USE_CPU=1 OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=2 run.py
