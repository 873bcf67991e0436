#!/usr/bin/env bash
# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
# A communication backend named for Accelerate or Trainer, in a process that no launcher has started: on CPUs the group
# is taken to be there.
#
# Guess: a single process makes no group, and what is said of its backend is left alone, as on accelerators.
#
# Seen: accelerate 1.15.0, transformers 5.23.0: Accelerator(cpu=True) runs as one process. With
# InitProcessGroupKwargs(backend="gloo"), and with TrainingArguments(use_cpu=True, ddp_backend="gloo"), it raises
# "Default process group has not been initialized, please make sure to call init_process_group." Nothing says that the
# backend's name is what asked for it. A site of one process, as a job of its own, leaves the name out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0
cat > run.py <<'EOF'
import os
import sys

from accelerate import Accelerator, InitProcessGroupKwargs
from transformers import TrainingArguments

for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU"):
    os.environ.pop(name, None)
which = sys.argv[1]
try:
    if which == "trainer":
        found = TrainingArguments(output_dir="out", use_cpu=True, ddp_backend="gloo").world_size
    else:
        handlers = [InitProcessGroupKwargs(backend="gloo")] if which == "named" else []
        found = Accelerator(cpu=True, kwargs_handlers=handlers).num_processes
    print(f"{which}: {found} process")
except ValueError as error:
    print(f"{which}: {error}")
EOF
for which in plain named trainer; do venv/bin/python run.py "$which" 2>/dev/null | tail -1; done | tee seen
error="Default process group has not been initialized, please make sure to call init_process_group."
diff seen <(printf '%s\n' "plain: 1 process" "named: $error" "trainer: $error")
