# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One DeepSpeed training run on this rank, through `deepspeed.initialize`, synchronised by geo_accel or not.

Started by `geo_accel.testing.launch.run_workers`. Writes `rank-R.json` (losses, counts of collectives, agreement) and
`rank-R.safetensors` (the model that the rank computes with, its parameters whole) into --out.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file
from torch import nn

from geo_accel import GeoSync, SiteLostError, keep_deepspeed_in_site
from geo_accel.testing.models import build_data, build_model
from geo_accel.testing.train_worker import act_out, separated

LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zero", type=int, default=0, choices=range(4))
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--offload", action="store_true", help="masters and optimizer state on the CPU")
    parser.add_argument("--early", action="store_true", help="create the model partitioned, as from_pretrained does")
    parser.add_argument("--method", choices=("geo", "plain", "late"), default="geo", help="late: geo, but too late")
    parser.add_argument("--config", default="{}", help="the geo_accel block as JSON")
    parser.add_argument("--deepspeed", default="{}", help="further DeepSpeed settings as JSON")
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--optimizer", choices=tuple(LEARNING_RATES), default="adamw")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--clip", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overflow-at", type=int, default=0, help="an infinite loss on site 0 in that step")
    parser.add_argument("--save-at", type=int, default=0)
    parser.add_argument("--resume", default=None, help="a checkpoint folder")
    parser.add_argument("--die-at", type=int, default=0, help="SIGKILL this process before that step")
    parser.add_argument("--hang-at", type=int, default=0)
    parser.add_argument("--hang-s", type=float, default=20.0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs separated by `--and` share one process and its imports; returns the exit code."""
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("error", category=category, module="geo_accel")
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    code = next(filter(None, map(run, separated(sys.argv[1:] if arguments is None else arguments))), 0)
    if code == 0:
        dist.destroy_process_group()
    return code


def run(arguments: list[str]) -> int:
    """One run: 0, 2 for a user's mistake, 3 for a lost site."""
    try:
        train(parse(arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SiteLostError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)  # the connections that are left would make a tidy exit wait
    return 0


def settings(options: argparse.Namespace) -> dict:
    """The DeepSpeed JSON."""
    name, parameters = {"sgd": ("SGD", {}), "adamw": ("AdamW", {"torch_adam": True})}[options.optimizer]
    zero: dict = {"stage": options.zero, "stage3_param_persistence_threshold": 100}
    if options.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": options.batch,
        "gradient_accumulation_steps": options.accumulate,
        "gradient_clipping": options.clip,
        "optimizer": {"type": name, "params": {"lr": LEARNING_RATES[options.optimizer], **parameters}},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **({options.dtype: {"enabled": True}} if options.dtype != "fp32" else {}),
        "geo_accel": json.loads(options.config),
        **json.loads(options.deepspeed),
    }


def train(options: argparse.Namespace) -> None:
    rank = int(os.environ["RANK"])
    options.out.mkdir(parents=True, exist_ok=True)
    told = settings(options)
    if options.method == "geo":
        keep_deepspeed_in_site(told)
    torch.manual_seed(options.seed)
    if options.early:
        with deepspeed.zero.Init(config_dict_or_path=told):
            model = build_model(options.model)
    else:
        model = build_model(options.model)
    engine, *_ = deepspeed.initialize(model=model, config=told)
    geo = GeoSync(model=engine, config=told, enabled=options.method != "plain")
    before = spanning_collectives(geo)
    if options.resume:
        engine.load_checkpoint(options.resume)
    record: dict = {"losses": [], "differs_between_rounds": None}
    examples = build_data(options.model, 64, seed=options.seed)
    with geo:
        while engine.global_steps < options.steps:
            act_out(options, engine.global_steps + 1)
            for micro_step in range(options.accumulate):
                batch = batch_of(examples, options, engine.global_steps * options.accumulate + micro_step)
                loss = engine(**batch).loss
                if engine.global_steps + 1 == options.overflow_at and os.environ.get("GROUP_RANK") == "0":
                    loss = loss * float("inf")
                engine.backward(loss)
                engine.step()
                record["losses"].append(loss.item())
            geo.step()
            if engine.global_steps == options.save_at:
                engine.save_checkpoint(str(options.out / "checkpoint"))
        record["unlike"] = digest(engine.module)
    record["spanning"] = spanning_collectives(geo) - before
    record["summary"] = geo.summary()
    record["skipped"] = engine.skipped_steps
    record["copies_agree"] = copies_agree(engine.module)
    record["alike"] = digest(engine.module)
    (options.out / f"rank-{rank}.json").write_text(json.dumps(record))
    save_file(whole(engine.module), options.out / f"rank-{rank}.safetensors")


def batch_of(examples: list[dict], options: argparse.Namespace, micro_step: int) -> dict[str, torch.Tensor]:
    """This rank's examples of a micro-batch: the ranks take turns, as a sampler for all would deal them."""
    first = (micro_step * dist.get_world_size() + dist.get_rank()) * options.batch
    rows = [examples[(first + i) % len(examples)] for i in range(options.batch)]
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


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


def spanning_collectives(geo: GeoSync) -> int:
    """Collectives issued so far on groups with ranks of several sites, whoever issued them, rounds left out."""
    per_site = int(os.environ["LOCAL_WORLD_SIZE"])
    rounds = geo.engine._transport._peer_group if geo.engine is not None else None
    return sum(
        group._get_sequence_number_for_group()
        for group, ranks in dist.distributed_c10d._world.pg_group_ranks.items()
        if len({rank // per_site for rank in ranks}) > 1 and group is not rounds
    )


if __name__ == "__main__":
    sys.exit(main())
