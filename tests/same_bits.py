# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Do two checkouts train to the same bits? `python -m tests.same_bits OTHER_CHECKOUT` (two minutes a checkout).

Eight runs with fixed plans, so that nothing depends on what a machine measures: Accelerate, Trainer and DeepSpeed;
"stream", "backward" and "blocking"; int8, int2 and topk; two and three sites. Each checkout's own worker trains with
its own geo_accel. Returns 1 where a hash of final weights differs.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.workers.launch import run_workers

STEPS = ["--steps", "24", "--save-every", "12"]


def block(mode: str, codec: str, **more: object) -> str:
    """A geo_accel block that leaves nothing to measure."""
    sync = {"mode": mode, "period": 3, "outer": "mean"}
    if mode == "stream":
        sync["delay"] = 1
    if mode == "backward":
        sync["schedule"] = "equal"
    compression = {"codec": codec} | ({"ratio": 0.1} if codec == "topk" else {})
    return json.dumps({"sync": sync | more, "compression": compression})


RUNS: dict[str, tuple[tuple[int, ...], list[str]]] = {
    "stream int8": ((1, 1), ["--config", block("stream", "int8")]),
    "stream int2": ((1, 1), ["--config", block("stream", "int2"), "--optimizer", "adamw", "--lr", "0.001"]),
    "stream topk": ((1, 1), ["--config", block("stream", "topk")]),
    "stream int8, Trainer": ((1, 1), ["--config", block("stream", "int8"), "--integration", "trainer"]),
    "backward int8": ((1, 1), ["--config", block("backward", "int8")]),
    "blocking int8, Trainer": ((1, 1), ["--config", block("blocking", "int8"), "--integration", "trainer"]),
    "stream int2, three sites": ((1, 1, 1), ["--config", block("stream", "int2")]),
    "stream int8, ZeRO-1, 2+2 ranks": ((2, 2), []),
}
ZERO = {
    "zero_optimization": {"stage": 1},
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 1,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    "geo_accel": json.loads(block("stream", "int8")),
}
DEEPSPEED = {
    "ACCELERATE_USE_CPU": "false",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "DS_ACCELERATOR": "cpu",
    "LOCAL_SIZE": "1",
}
"""What `accelerate launch` sets for it."""


def main() -> int:
    """Runs all on both checkouts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout to compare this one with")
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    other = options.other.resolve()
    moved = (other / "tests/workers/train_worker.py").exists()  # it once was part of the package
    theirs = "tests.workers.train_worker" if moved else "geo_accel.testing.train_worker"
    checkouts = {"here": (here, "tests.workers.train_worker"), "other": (other, theirs)}
    table, verdicts = Table("run", *checkouts, ""), set()
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder, "zero.json")
        json_file.write_text(json.dumps(ZERO))
        for name, (sites, arguments) in RUNS.items():
            arguments = arguments or ["--deepspeed", str(json_file), "--batch", "2"]
            hashes = []
            for which, (checkout, worker) in checkouts.items():
                out = Path(folder, which, name.replace(" ", "-"))
                command = [worker, *STEPS, *arguments, "--out", str(out)]
                environ = only(checkout) | (DEEPSPEED if "--deepspeed" in arguments else {})
                for rank, finished in enumerate(run_workers(command, sites, 200, environ)):
                    if finished.returncode != 0:
                        print(f"{name}, {which}, rank {rank}:\n{finished.output[-3000:]}", file=sys.stderr)
                        return 1
                hashes.append(digest(out))
            verdicts.add(verdict := "same" if hashes[0] == hashes[1] else "DIFFERENT")
            print(f"{name}: {verdict}", flush=True)
            table.add_row(name, *(one[:16] for one in hashes), verdict)
    Console().print(table)
    return 0 if verdicts == {"same"} else 1


def only(checkout: Path) -> dict[str, str]:
    """What makes a Python take geo_accel from `checkout`, wherever it is started. Needs Python 3.11."""
    environ = {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", "import geo_accel; print(geo_accel.__file__)"]
    found = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(checkout), found
    return environ


def digest(out: Path) -> str:
    """Of the final weights of all ranks."""
    files = sorted(out.glob("rank-*.safetensors"))
    assert files, f"{out}: no weights were written"
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
