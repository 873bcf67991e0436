#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# Trainer's loss of a GPT-2 is (n - 1)/n of what the model itself reports, for blocks of n tokens.
#
# Guess: the logged loss is the mean over the predicted tokens, as model(**batch).loss is; so it is for a Llama.
#
# Seen: transformers 5.23.0: 7/8 at blocks of 8, with and without accumulation, in training (gradients too) and in
# evaluation. Trainer counts labels, and takes the one off that the shift drops only where the class name tells it the
# loss: *ForCausalLM, not GPT2LMHeadModel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0
cat > run.py <<'EOF'
import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

GPT2 = GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=11, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
LLAMA = LlamaConfig(num_hidden_layers=1, num_attention_heads=1, hidden_size=8, intermediate_size=8, vocab_size=11)
torch.manual_seed(0)
rows = [{"input_ids": tokens, "labels": tokens} for tokens in torch.randint(0, 11, (4, 8))]
batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
seen = {}
for kind, config in ((GPT2LMHeadModel, GPT2), (LlamaForCausalLM, LLAMA)):
    for accumulation in (1, 4):
        model = kind(config)
        (own := model(**batch).loss).backward()
        own_norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
        model.zero_grad()
        options = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "use_cpu": True, "report_to": []}
        options |= {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
        arguments = TrainingArguments(tempfile.mkdtemp(), save_strategy="no", disable_tqdm=True, **options)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train()
        log = trainer.state.log_history[0]
        ratios = log["loss"] / own, log["grad_norm"] / own_norm, trainer.evaluate(rows)["eval_loss"] / own
        seen[kind.__name__, accumulation] = [round(float(ratio), 3) for ratio in ratios]
print("seen: Trainer's loss, norm of gradients and loss in evaluation, the model's own = 1:", seen)
expected = {"GPT2LMHeadModel": 0.875, "LlamaForCausalLM": 1.0}
if seen != {(kind, accumulation): [ratio] * 3 for kind, ratio in expected.items() for accumulation in (1, 4)}:
    sys.exit(f"changed: {seen}")
EOF
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python run.py
