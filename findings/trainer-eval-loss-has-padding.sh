#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# Trainer's evaluation loss over two ranks has in it the rows that only even out the ranks; its metrics have not.
#
# Guess: rows that were handed out twice count once in eval_loss, as they do in what compute_metrics is given.
#
# Seen: transformers 5.23.0, accelerate 1.15.0: 5 rows in batches of 2 on 2 ranks: compute_metrics gets 5 rows, but
# eval_loss is not their mean: the last row's loss is that of a batch which holds the first row once more.
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
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
config = LlamaConfig(num_hidden_layers=1, num_attention_heads=1, hidden_size=8, intermediate_size=8, vocab_size=11)
model = LlamaForCausalLM(config).eval()
rows = [{"input_ids": tokens, "labels": tokens} for tokens in torch.randint(0, 11, (5, 8))]
with torch.no_grad():
    losses = [model(**{name: value[None] for name, value in row.items()}).loss.item() for row in rows]
given = []
arguments = TrainingArguments(
    tempfile.mkdtemp(), per_device_eval_batch_size=2, use_cpu=True, report_to=[], disable_tqdm=True
)
trainer = Trainer(model=model, args=arguments, compute_metrics=lambda told: given.append(len(told.label_ids)) or {})
scored = trainer.evaluate(rows)["eval_loss"]
mean = sum(losses) / 5
with_first_again = (sum(losses[:4]) + (losses[4] + losses[0]) / 2) / 5
assert abs(mean - with_first_again) > 1e-4
seen = [given[0], abs(scored - mean) < 1e-5, abs(scored - with_first_again) < 1e-5]
if arguments.process_index == 0:
    print(f"seen: {given[0]} rows in the metrics, loss {scored:.5f}, their mean {mean:.5f}", flush=True)
    if seen != [5, False, True]:
        print("changed:", seen, flush=True)
trainer.accelerator.wait_for_everyone()
os._exit(seen != [5, False, True])
EOF
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=2 run.py
