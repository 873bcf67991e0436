#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# trl's SFTTrainer gathers four numbers over all ranks in every micro-batch, whatever logging_steps says.
#
# Guess: metrics are gathered when they are logged.
#
# Seen: trl 1.16.0: 4 all_gathers per micro-batch, one after the other, with logging_steps=100 and accumulation 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0 trl==1.16.0 datasets==5.2.0
cat > run.py <<'EOF'
import os
import tempfile

import torch
import torch.distributed as dist
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(11)}, unk_token="w0"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1", pad_token="w2")
config = LlamaConfig(num_hidden_layers=1, num_attention_heads=1, hidden_size=8, intermediate_size=8, vocab_size=11)
gathers, seen = [], []
for name in ("all_gather", "all_gather_into_tensor", "all_gather_object"):

    def counting(*args, original=getattr(dist, name), **kwargs):
        gathers.append(original.__name__)
        return original(*args, **kwargs)

    setattr(dist, name, counting)


class Counting(SFTTrainer):
    def training_step(self, *args, **kwargs):
        before = len(gathers)
        loss = super().training_step(*args, **kwargs)
        seen.append(len(gathers) - before)
        return loss


options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 3, "logging_steps": 100}
options |= {"use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True, "max_length": 8}
arguments = SFTConfig(tempfile.mkdtemp(), save_strategy="no", **options)
rows = Dataset.from_list([{"input_ids": row} for row in torch.randint(0, 11, (24, 8)).tolist()])
Counting(model=LlamaForCausalLM(config), args=arguments, processing_class=tokenizer, train_dataset=rows).train()
if arguments.process_index == 0:
    print("seen: gathers in each of 3 x 2 micro-batches:", seen, flush=True)
    if seen != [4] * 6:
        print("changed:", seen, flush=True)
dist.barrier()
os._exit(seen != [4] * 6)
EOF
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=2 run.py
