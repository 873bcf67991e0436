#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# A transformers model that is constructed inside deepspeed.zero.Init has torch's initial weights, not its own.
#
# Guess: with deepspeed.zero.Init(): Model(config) gives the weights that Model(config) gives, partitioned.
#
# Seen: deepspeed 0.19.8, transformers 5.23.0: GPT-2's embeddings have a standard deviation of 1 in place of
# initializer_range (0.02), and residual projections are not scaled down. transformers initialises after the
# constructor, when DeepSpeed has emptied the parameters. Model.from_config under an HfDeepSpeedConfig is right: there
# rank 0 of the job fills in the parameters afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 deepspeed==0.19.8 transformers==5.23.0 accelerate==1.15.0
cat > run.py <<'EOF'
import sys

import deepspeed
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.integrations import HfDeepSpeedConfig

NAMES = ("transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_proj.weight")
ZERO_3 = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
config = GPT2Config(n_layer=1, n_head=1, n_embd=64, vocab_size=100, n_positions=64)


def spread(model: torch.nn.Module) -> list[float]:
    parameters = [model.get_parameter(name) for name in NAMES]
    with deepspeed.zero.GatheredParameters(parameters):
        return [round(parameter.std().item(), 2) for parameter in parameters]


deepspeed.init_distributed("gloo")
torch.manual_seed(0)
seen = {"plain": spread(GPT2LMHeadModel(config))}
with deepspeed.zero.Init(config_dict_or_path=ZERO_3):
    model = GPT2LMHeadModel(config)
seen["zero.Init"] = spread(model)
keep = HfDeepSpeedConfig(ZERO_3)
seen["from_config"] = spread(AutoModelForCausalLM.from_config(config))
print("seen: standard deviations of", NAMES, seen)
wrong = seen["plain"] != [0.02, 0.02, 0.01] or seen["from_config"] != seen["plain"]
if wrong or not 0.9 < seen["zero.Init"][0] < 1.1 or seen["zero.Init"][2] != 0.02:
    sys.exit(f"changed: {seen}")
EOF
DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 venv/bin/torchrun --standalone --nproc-per-node=1 run.py
