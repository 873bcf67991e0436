# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site of one run: trains by one method, records every step, evaluates the average of the sites' models.

Started by the lab, once per site. Prints "step N" for the progress bars and writes `rank-R.json` into --out.
"""

import argparse
import hashlib
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.local_sgd import LocalSGD
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM

from benchmarks.demo.setting import BLOCKS, METHODS, START, TURNS, Setting
from benchmarks.demo.training import Blocks, endless_batches, make_optimizer, train_step
from benchmarks.demo.turns import take_turns
from geo_accel import GeoSync
from geo_accel.testing.bytes_worker import bytes_sent


@dataclass(slots=True, kw_only=True)
class Recording:
    """What one site saw."""

    boundaries: list[float] = field(default_factory=list)
    """`time.perf_counter` at the start of the first step and at the end of each: one clock for all sites."""
    sent: list[int] = field(default_factory=list)
    """The kernel's count of bytes that have left the site's interface, at each boundary."""
    losses: list[float] = field(default_factory=list)
    """Training loss of each step on this site's examples, nats per token."""
    eval_loss: float = 0.0
    """Held-out loss of the model averaged over sites, nats per token."""
    weights: str = ""
    """SHA-256 of the evaluated weights: equal on all sites, or the sites do not hold one model."""
    checks: list[tuple[int, float]] = field(default_factory=list)
    """DDP, in the last half of the run: steps done, and the held-out loss then."""
    geo: dict | None = None
    """geo_accel's own summary, with the step at which its plan began as `adopted`."""
    paused_s: float = 0.0
    """Seconds of evaluation between steps, which `boundaries` leave out."""

    def mark(self) -> None:
        """A step boundary."""
        self.boundaries.append(perf_counter() - self.paused_s)
        self.sent.append(bytes_sent(os.environ["GLOO_SOCKET_IFNAME"]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=(*METHODS, TURNS), required=True)
    parser.add_argument("--material", type=Path, required=True, help="the folder that all runs share")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--period", type=int, help="LocalSGD's steps between averages")
    parser.add_argument("--plan", type=Path, help=f"the file of geo_accel's plan, for method {TURNS}")
    parser.add_argument("--save", type=Path, help="where the trained model goes")
    options = parser.parse_args(arguments)
    setting = Setting.load(options.material)
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    set_seed(setting.seed)
    model = AutoModelForCausalLM.from_pretrained(options.material / START)
    blocks = load_file(options.material / BLOCKS)
    data, held_out = Blocks(blocks["train"]), blocks["validation"].long()
    if options.method == TURNS:
        turns = take_turns(setting, accelerator, model, data, options.plan, options.steps)
        write(options.out, accelerator, {"turns": turns, "weights": digest(model)})
        accelerator.end_training()
        return 0
    recording = train(setting, options, accelerator, model, data, held_out)
    if options.method == "none":
        average_over_sites(model)
    recording.weights = digest(model)
    recording.eval_loss = evaluate(model, held_out)
    write(options.out, accelerator, asdict(recording))
    if options.save is not None and accelerator.is_main_process:
        model.save_pretrained(options.save)
    accelerator.end_training()
    return 0


def write(folder: Path, accelerator: Accelerator, recording: dict) -> None:
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(recording))


def train(
    setting: Setting,
    options: argparse.Namespace,
    accelerator: Accelerator,
    bare: nn.Module,
    data: Dataset,
    held_out: torch.Tensor,
) -> Recording:
    """The training loop. Only what synchronises the sites differs between methods."""
    optimizer = make_optimizer(bare, setting)
    batches = endless_batches(accelerator, data, setting)
    # Not prepared: accelerate would advance it once per site at every step.
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / setting.lr_warmup))
    if options.method == "none":
        # The floor is a model that nothing is wrapped around.
        model, optimizer = bare, accelerator.prepare(optimizer)
    else:
        model, optimizer = accelerator.prepare(bare, optimizer)
    if options.method == "geo":
        sync = GeoSync(accelerator=accelerator, model=model, optimizer=optimizer)
    elif options.method == "local_sgd":
        sync = LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=options.period)
    else:
        sync = nullcontext()

    recording, step, steps = Recording(), 0, options.steps
    first = {}  # what is timed is the first plan's course; a later review may change it
    checks = setting.checks(steps) if options.method == "ddp" else ()
    accelerator.wait_for_everyone()
    recording.mark()
    with sync as running:
        while step < steps:
            loss = train_step(accelerator, model, optimizer, next(batches), setting.clip)
            scheduler.step()
            if running is not None:
                running.step()
            recording.mark()
            recording.losses.append(loss.item())
            step += 1
            print(f"step {step}", flush=True)
            if step == setting.warmup and options.method == "geo":
                # Every site has the same plan, so every site goes on for as long.
                first = {"adopted": sync.engine.adopted, "plan": json.loads(sync.engine.plan.to_json())}
                steps = max(steps, setting.window(sync.engine.adopted, sync.engine.plan.period)[1] + 1)
            if step in checks:
                paused = perf_counter()
                recording.checks.append((step, evaluate(bare, held_out)))
                bare.train()
                accelerator.wait_for_everyone()
                recording.paused_s += perf_counter() - paused
    if options.method == "geo":
        recording.geo = {**sync.summary(), **first}
    return recording


@torch.no_grad()
def average_over_sites(model: nn.Module) -> None:
    """Sets the parameters to their mean over all sites."""
    for parameter in model.parameters():
        dist.all_reduce(parameter)
        parameter.div_(dist.get_world_size())


@torch.no_grad()
def evaluate(model: nn.Module, blocks: torch.Tensor) -> float:
    """Mean loss over all tokens of `blocks`, nats per token."""
    model.eval()
    losses = [model(input_ids=part, labels=part).loss.item() * len(part) for part in blocks.split(8)]
    return sum(losses) / len(blocks)


def digest(model: nn.Module) -> str:
    """SHA-256 over all parameters."""
    total = hashlib.sha256()
    for parameter in model.parameters():
        total.update(parameter.detach().numpy().tobytes())
    return total.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
