#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# What Trainer saves of a schedule-free run depends on whether it has just evaluated.
#
# Guess: save_model() and checkpoints hold the weights that evaluate() scores: the averaged ones, for which the
# optimizer has eval().
#
# Seen: transformers 5.23.0, schedulefree 1.4.1: after train() save_model() writes the weights of the training form, as
# checkpoints do; the same call after evaluate() writes others, and those are what was scored.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0 schedulefree==1.4.1
cat > run.py <<'EOF'
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
config = LlamaConfig(num_hidden_layers=1, num_attention_heads=1, hidden_size=8, intermediate_size=8, vocab_size=11)
rows = [{"input_ids": tokens, "labels": tokens} for tokens in torch.randint(0, 11, (16, 8))]
folder = tempfile.mkdtemp()
options = {"optim": "schedule_free_adamw", "learning_rate": 0.05, "lr_scheduler_type": "constant"}
options |= {"per_device_train_batch_size": 2, "max_steps": 20, "save_steps": 20, "use_cpu": True, "report_to": []}
arguments = TrainingArguments(folder, disable_tqdm=True, **options)
trainer = Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=rows)
trainer.train()
trainer.save_model(f"{folder}/trained")
scored = trainer.evaluate(rows)["eval_loss"]
trainer.save_model(f"{folder}/evaluated")


def loss(name: str) -> float:
    """Of a saved model, on the rows that were evaluated."""
    model = LlamaForCausalLM.from_pretrained(f"{folder}/{name}").eval()
    tokens = torch.stack([row["input_ids"] for row in rows])
    with torch.no_grad():
        return model(input_ids=tokens, labels=tokens).loss.item()


weights = {
    name: load_file(f"{folder}/{name}/model.safetensors")["model.embed_tokens.weight"]
    for name in ("trained", "evaluated", "checkpoint-20")
}
seen = {
    "checkpoint is what train() left": torch.equal(weights["checkpoint-20"], weights["trained"]),
    "and what evaluate() left": torch.equal(weights["trained"], weights["evaluated"]),
    "evaluated has the scored loss": abs(loss("evaluated") - scored) < 1e-5,
    "trained has the scored loss": abs(loss("trained") - scored) < 1e-5,
}
print("seen:", seen, f"scored {scored:.4f}, trained {loss('trained'):.4f}, evaluated {loss('evaluated'):.4f}")
if list(seen.values()) != [True, False, True, False]:
    sys.exit(f"changed: {seen}")
EOF
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python run.py
