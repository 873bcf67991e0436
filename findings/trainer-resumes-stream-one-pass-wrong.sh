#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# Trainer, resumed in a stream's second pass, gives the model batches that it has just had.
#
# Guess: resume_from_checkpoint goes on with the batch after the checkpoint.
#
# Seen: transformers 5.23.0, datasets 5.2.0: of a stream of 3 batches, saved after the fourth (the first of the second
# pass), the resumed run begins a pass anew and takes its first batch again: every later batch comes one step late.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0
cat > run.py <<'EOF'
import sys
import tempfile

from datasets import IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

config = LlamaConfig(num_hidden_layers=1, num_attention_heads=1, hidden_size=8, intermediate_size=8, vocab_size=11)
folder = tempfile.mkdtemp()


def batches(resume: str | None) -> list[int]:
    """The first number of each batch that is trained on, 8 steps in all."""
    seen = []

    class Telling(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.append(inputs["input_ids"][0, 0].item())
            return super().compute_loss(model, inputs, *args, **kwargs)

    stream = IterableDataset.from_generator(lambda: ({"input_ids": [i] * 8, "labels": [i] * 8} for i in range(3)))
    options = {"per_device_train_batch_size": 1, "max_steps": 8, "save_steps": 4, "use_cpu": True, "report_to": []}
    arguments = TrainingArguments(folder, disable_tqdm=True, **options)
    Telling(model=LlamaForCausalLM(config), args=arguments, train_dataset=stream).train(resume_from_checkpoint=resume)
    return seen


seen = {"at once": batches(None), "resumed after 4": batches(f"{folder}/checkpoint-4")}
print("seen:", seen)
if seen != {"at once": [0, 1, 2, 0, 1, 2, 0, 1], "resumed after 4": [0, 1, 2, 0]}:
    sys.exit(f"changed: {seen}")
EOF
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python run.py
