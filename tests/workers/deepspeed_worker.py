# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One DeepSpeed training run on this rank, through `deepspeed.initialize`, synchronised by geo_accel; or, to compare
with, the same without DeepSpeed.

Started by `tests.workers.launch.run_workers`. Writes `rank-R.json` (losses, counts of collectives, agreement) and
`rank-R.safetensors` (the model that the rank computes with, its parameters whole) into --out.
"""

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import deepspeed
import torch
import torch.distributed as dist
from accelerate import Accelerator
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file
from torch import nn

from geo_accel import GeoSync, keep_deepspeed_in_site
from geo_accel.transport.gloo import OUR_GROUPS
from tests.workers.models import build_data, build_model
from tests.workers.several_runs import exit_code, run_each

BATCH, RATE, SEED = 2, 1e-3, 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zero", type=int, default=0, choices=range(4))
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--offload", action="store_true", help="masters and optimizer state on the CPU")
    parser.add_argument("--plain", choices=("geo", "ddp"), help="without DeepSpeed, to compare with")
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--optimizer", choices=("SGD", "AdamW"), default="AdamW")
    parser.add_argument("--early", action="store_true", help="create the model partitioned, as from_pretrained does")
    parser.add_argument("--late", action="store_true", help="keep to the site only after DeepSpeed has prepared all")
    parser.add_argument("--config", default="{}", help="the geo_accel block as JSON")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--overflow-at", type=int, default=0, help="an infinite loss on site 0 in that step")
    parser.add_argument("--save-at", type=int, default=0)
    parser.add_argument("--resume", default=None, help="a checkpoint folder; {site} stands for the site's name")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs separated by `--and` share one process and its imports; returns the exit code."""
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return run_each(run, arguments)


def run(arguments: list[str]) -> int:
    """One run; returns the exit code."""
    return exit_code(lambda: train(parse(arguments)))


def settings(options: argparse.Namespace) -> dict:
    """The DeepSpeed JSON."""
    zero: dict = {"stage": options.zero, "stage3_param_persistence_threshold": 100}
    if options.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    optimizer = {"lr": RATE, **({"torch_adam": True} if options.optimizer == "AdamW" else {})}
    return {
        "train_micro_batch_size_per_gpu": BATCH,
        "gradient_accumulation_steps": options.accumulate,
        "gradient_clipping": 0.0,  # DeepSpeed's own default is 1
        "optimizer": {"type": options.optimizer, "params": optimizer},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **({options.dtype: {"enabled": True}} if options.dtype != "fp32" else {}),
        "geo_accel": json.loads(options.config),
    }


class PlainEngine:
    """The same training without DeepSpeed, with Accelerate's DDP: over all ranks, or kept in the site by geo_accel."""

    def __init__(self, model: nn.Module, options: argparse.Namespace) -> None:
        self.accelerator = Accelerator(cpu=True)
        optimizer = getattr(torch.optim, options.optimizer)(model.parameters(), lr=RATE)
        self.wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.module, self.global_steps, self.skipped_steps = model, 0, 0

    def __call__(self, **batch: torch.Tensor) -> object:
        return self.wrapped(**batch)

    def backward(self, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss)

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.global_steps += 1


def start(options: argparse.Namespace, told: dict) -> tuple:
    """The engine that trains, and what synchronises it or None."""
    if not options.late and not options.plain:
        keep_deepspeed_in_site(told)
    torch.manual_seed(SEED)
    if options.early:
        with deepspeed.zero.Init(config_dict_or_path=told):
            model = build_model(options.model)
    else:
        model = build_model(options.model)
    if not options.plain:
        # DeepSpeed refuses fp16 on processors without instructions for it; there torch computes the same, more slowly.
        with patch.object(get_accelerator(), "is_fp16_supported", return_value=True):
            engine, *_ = deepspeed.initialize(model=model, config=told)
        return engine, GeoSync(model=engine, config=told)
    plain = PlainEngine(model, options)
    if options.plain == "ddp":
        return plain, None
    return plain, GeoSync(accelerator=plain.accelerator, model=plain.wrapped, optimizer=plain.optimizer, config=told)


def train(options: argparse.Namespace) -> None:
    rank = place()[0]
    options.out.mkdir(parents=True, exist_ok=True)
    # A job has its files to itself.
    disk = options.out / os.environ["GEO_ACCEL_SITE"] if "GEO_ACCEL_MEET" in os.environ else options.out
    engine, geo = start(options, settings(options))
    before = spanning_collectives() if geo is not None else 0
    if options.resume:
        engine.load_checkpoint(options.resume.format(site=os.environ.get("GEO_ACCEL_SITE")))
    record: dict = {"losses": []}
    examples = build_data(options.model, 64, seed=SEED)
    with geo or nullcontext():
        while engine.global_steps < options.steps:
            loss = engine(**batch_of(examples, engine.global_steps)).loss
            if engine.global_steps + 1 == options.overflow_at and os.environ.get("GROUP_RANK") == "0":
                loss = loss * float("inf")
            engine.backward(loss)
            engine.step()
            record["losses"].append(loss.item())
            if geo is not None:
                geo.step()
            whole_step = options.accumulate == 1 or engine.micro_steps % options.accumulate == 0
            if engine.global_steps == options.save_at and whole_step:
                engine.save_checkpoint(str(disk / "checkpoint"))
        record["unlike"] = digest(engine.module)
    if geo is not None:
        record["spanning"] = spanning_collectives() - before
        record["summary"] = geo.summary()
    record["skipped"] = engine.skipped_steps
    record["of_one_world"] = sorted(name for name in sys.modules if ".one_world." in name)
    record["copies_agree"] = copies_agree(engine.module)
    (options.out / f"rank-{rank}.json").write_text(json.dumps(record))
    save_file(whole(engine.module), options.out / f"rank-{rank}.safetensors")


def place() -> tuple[int, int]:
    """This rank's number among all sites' ranks, and how many there are."""
    rank, size = (os.environ.get(f"RUN_{name}", os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    return int(rank), int(size)


def batch_of(examples: list[dict], step: int) -> dict[str, torch.Tensor]:
    """This rank's examples of a step: the ranks take turns, as a sampler for all would deal them."""
    rank, size = place()
    first = (step * size + rank) * BATCH
    rows = [examples[(first + i) % len(examples)] for i in range(BATCH)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters as they are computed with. Collective inside the site."""
    parameters = dict(model.named_parameters())
    with deepspeed.zero.GatheredParameters(list(parameters.values())):
        return {name: parameter.detach().clone().contiguous() for name, parameter in parameters.items()}


def digest(model: nn.Module) -> float:
    """A number that two models share only if they are the same."""
    weights = torch.Generator().manual_seed(0)
    held = whole(model).values()
    return sum((value.double() * torch.rand(value.shape, generator=weights)).sum().item() for value in held)


def copies_agree(model: nn.Module) -> bool:
    """Whether what is computed with is the masters, rounded. Collective inside the site."""
    held = whole(model)
    masters = {name: safe_get_full_fp32_param(parameter) for name, parameter in model.named_parameters()}
    return all(
        master is None or torch.equal(held[name], master.view_as(held[name]).to(held[name].dtype))
        for name, master in masters.items()
    )


def spanning_collectives() -> int:
    """Collectives issued so far on groups with ranks of several sites, whoever issued them, rounds left out."""
    per_site = int(os.environ["LOCAL_WORLD_SIZE"])
    return sum(
        group._get_sequence_number_for_group()
        for group, ranks in dist.distributed_c10d._world.pg_group_ranks.items()
        if len({rank // per_site for rank in ranks}) > 1 and group.group_desc != OUR_GROUPS
    )


if __name__ == "__main__":
    sys.exit(main())
