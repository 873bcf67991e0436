# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One training run on this rank, by Accelerate or Trainer, synchronised by geo_accel or by a method to compare with.

Started by `tests.workers.launch.run_workers`. Writes `rank-R.json` (losses, steps, counts) and
`rank-R.safetensors` (final weights and buffers) into --out. Several runs, separated by `--and`, share one process and
its imports.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration, InitProcessGroupKwargs, PartialState
from accelerate.local_sgd import LocalSGD
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, set_seed
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from geo_accel import GeoSync, plug_into, shard_in_site
from geo_accel.units import checksums, find_units
from tests.workers.models import build_data, build_model
from tests.workers.several_runs import exit_code, run_each


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--integration", choices=("accelerate", "trainer"), default="accelerate")
    parser.add_argument("--method", choices=("geo", "ddp", "local_sgd", "none", "average_first"), default="geo")
    parser.add_argument("--config", default="{}", help="the geo_accel block as JSON")
    parser.add_argument("--deepspeed", default=None, help="a DeepSpeed JSON file, whose geo_accel block counts")
    parser.add_argument("--trl", choices=("sft", "dpo"), help="that trainer in place of Trainer")
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--optimizer", choices=("sgd", "adamw", "schedule_free"), default="sgd")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--clip", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in backward")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--local-sgd-steps", type=int, default=4)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--evaluate-every", type=int, default=0)
    parser.add_argument("--load-best", action="store_true")
    parser.add_argument("--highest-is-best", action="store_true", help="of evaluation losses")
    parser.add_argument("--resume", default=None, help="a checkpoint folder; {site} stands for the site's name")
    parser.add_argument("--die-at", type=int, default=0, help="SIGKILL this process before that step")
    parser.add_argument("--hang-at", type=int, default=0, help="go silent before that step")
    parser.add_argument("--hang-s", type=float, default=20.0)
    parser.add_argument("--late-s", type=float, default=0.0, help="arrive that much later at geo_accel than others")
    parser.add_argument("--unequal-start", action="store_true", help="other initial weights on every rank")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    return run_each(run, arguments)


def run(arguments: list[str]) -> int:
    """One run; returns the exit code."""
    options = parse(arguments)
    rank = int(os.environ.get("RUN_RANK", os.environ.get("RANK", 0)))
    if options.deepspeed:
        AcceleratorState._reset_state()  # it would keep an earlier run's JSON
    set_seed(options.seed + (rank if options.unequal_start else 0))
    model = build_model(options.model, options.dropout)
    set_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    site = os.environ.get("GEO_ACCEL_SITE", "")
    # A job has its files to itself.
    options.disk = options.out / site if "GEO_ACCEL_MEET" in os.environ else options.out
    if options.resume:
        options.resume = options.resume.format(site=site)
    record: dict = {"losses": [], "summary": None, "world_collectives": 0}
    train = {"accelerate": run_accelerate, "trainer": run_trainer}[options.integration]
    if code := exit_code(lambda: train(options, model, record)):
        return code
    record["of_one_world"] = sorted(name for name in sys.modules if ".one_world." in name)
    (options.out / f"rank-{rank}.json").write_text(json.dumps(record))
    save_file(state_of(model, options), options.out / f"rank-{rank}.safetensors")
    return 0


def state_of(model: torch.nn.Module, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """What the model computes with. With DeepSpeed, which may have partitioned it, collective inside the site."""
    if options.deepspeed:
        from tests.workers.deepspeed_worker import whole

        return whole(model)
    return {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}


def act_out(options: argparse.Namespace, step: int) -> None:
    """Dies or hangs as asked, before the given step (counted from 1)."""
    if step == options.die_at:
        os.kill(os.getpid(), signal.SIGKILL)
    if step == options.hang_at:
        time.sleep(options.hang_s)
        os._exit(9)


def world_collectives() -> int:
    """Collectives issued so far on the group of all ranks, whoever issued them (DDP's reducer included)."""
    if not dist.is_initialized():
        return 0
    return dist.group.WORLD._get_sequence_number_for_group()


def fingerprint(model: torch.nn.Module) -> int:
    """Of the trainable weights, to see which ranks agree."""
    return hash(tuple(checksums(find_units(model)).values()))


def settings(options: argparse.Namespace) -> dict | None:
    """The config for geo_accel; None where it stands in the DeepSpeed JSON."""
    return None if options.deepspeed else json.loads(options.config)


def build_optimizer(options: argparse.Namespace, model: torch.nn.Module) -> tuple:
    """Optimizer and scheduler; with DeepSpeed, whose JSON has the optimizer, Accelerate's stand-ins for them."""
    if options.deepspeed:
        from accelerate.utils import DummyOptim, DummyScheduler  # there only where DeepSpeed is

        optimizer = DummyOptim(model.parameters(), lr=options.lr)
        return optimizer, DummyScheduler(optimizer, lr_scheduler_callable=constant)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        trainable = [torch.nn.Parameter(torch.zeros(1))]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[options.optimizer]
    optimizer = kind(trainable, lr=options.lr)
    return optimizer, constant(optimizer)


def constant(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def run_accelerate(options: argparse.Namespace, model: torch.nn.Module, record: dict) -> None:
    if options.checkpointing:
        model.gradient_checkpointing_enable()
    accelerator = Accelerator(
        gradient_accumulation_steps=options.accumulate,
        mixed_precision="bf16" if options.bf16 else "no",
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        project_dir=str(options.disk),
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=options.deepspeed) if options.deepspeed else None,
        # DeepSpeed's launch would choose none without an accelerator, and NCCL wants one for each rank.
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")],
    )
    config = settings(options)
    if options.deepspeed:
        from geo_accel import keep_deepspeed_in_site

        keep_deepspeed_in_site()
    data = build_data(options.model, options.examples, options.data_seed)
    optimizer, scheduler = build_optimizer(options, model)
    # A generator of its own: else every new iterator draws a seed from the global one, which a resumed run would
    # do once more than the run it continues, and dropout masks would differ.
    order = torch.Generator().manual_seed(options.seed)
    loader = DataLoader(data, batch_size=options.batch, shuffle=True, generator=order)
    if options.method == "average_first":  # gradients stay where they are, so nothing is wrapped around the model
        wrapped, (optimizer, loader, scheduler) = model, accelerator.prepare(optimizer, loader, scheduler)
    else:
        wrapped, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    geo = local = None
    if options.method == "geo":
        time.sleep(options.late_s)
        if options.private:
            loader = shard_in_site(loader, config)
        geo = GeoSync(accelerator=accelerator, model=wrapped, optimizer=optimizer, config=config)
    elif options.method == "local_sgd":
        local = LocalSGD(accelerator=accelerator, model=wrapped, local_sgd_steps=options.local_sgd_steps)
    step = 0
    if options.resume:
        accelerator.load_state(options.resume)
        step = int(Path(options.resume).name.split("-")[1])
    first = step
    with geo or local or contextlib.nullcontext():
        per_epoch = -(-len(loader) // options.accumulate)  # the last batch of an epoch closes a step
        epoch = step // per_epoch
        while step < options.steps:
            loader.set_epoch(epoch)
            batches = loader
            if step == first and step % per_epoch:
                batches = accelerator.skip_first_batches(loader, step % per_epoch * options.accumulate)
            for batch in batches:
                if step >= options.steps:
                    break
                with accelerator.accumulate(wrapped):
                    loss = wrapped(**batch)["loss"]
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and options.clip:
                        accelerator.clip_grad_norm_(wrapped.parameters(), options.clip)
                    if accelerator.sync_gradients and options.method == "average_first" and step > 0:
                        average(model)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    step += 1
                    act_out(options, step)
                    record["losses"].append(loss.item())
                    if step == first + 1:
                        record["world_collectives"] = -world_collectives()
                for method in (geo, local):
                    if method is not None and (method is geo or accelerator.sync_gradients):
                        method.step()
                if accelerator.sync_gradients and options.save_every and step % options.save_every == 0:
                    before = world_collectives()
                    accelerator.save_state(str(options.disk / f"step-{step}"))
                    record["world_collectives"] -= world_collectives() - before
            epoch += 1
        record["world_collectives"] += world_collectives()
        record["before_flush"] = fingerprint(model)
    if geo is not None:
        record["summary"] = geo.summary()
    if options.method == "average_first":
        average(model)


@torch.no_grad()
def average(model: torch.nn.Module) -> None:
    """Sets all parameters to their mean over all ranks, by plain collectives: the reference for mode "backward"."""
    for parameter in model.parameters():
        dist.all_reduce(parameter)
        parameter.div_(dist.get_world_size())


class Recorder(TrainerCallback):
    """Losses are read in training_step; here steps are counted and faults acted out."""

    def __init__(self, options: argparse.Namespace, record: dict) -> None:
        self.options, self.record, self.first = options, record, True

    def on_step_begin(self, args, state, control, **kwargs):
        act_out(self.options, state.global_step + 1)

    def on_step_end(self, args, state, control, **kwargs):
        if self.first:
            self.first = False
            self.record["world_collectives"] = -world_collectives()
        if state.global_step == state.max_steps:
            self.record["world_collectives"] += world_collectives()
            self.record["before_flush"] = fingerprint(kwargs["model"])


class Recording:
    """Mixed into a trainer: a subclass, as users have them."""

    record: dict

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.record["losses"].append(loss.item())
        return loss


class RecordingTrainer(Recording, Trainer):
    pass


def run_trainer(options: argparse.Namespace, model: torch.nn.Module, record: dict) -> None:
    strategies = {}
    if options.save_every:
        strategies |= {"save_strategy": "steps", "save_steps": options.save_every}
    if options.evaluate_every:
        strategies |= {"eval_strategy": "steps", "eval_steps": options.evaluate_every}
    if options.load_best:
        strategies |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
        strategies |= {"greater_is_better": options.highest_is_best}
    if options.deepspeed:
        PartialState(backend="gloo")
        strategies |= {"deepspeed": options.deepspeed, "accelerator_config": {"use_configured_state": True}}
    arguments = dict(
        output_dir=str(options.disk / "trainer"),
        use_cpu=os.environ["ACCELERATE_USE_CPU"] == "true" and not options.deepspeed,
        ddp_backend="gloo",
        bf16=options.bf16,
        gradient_checkpointing=options.checkpointing,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulate,
        max_grad_norm=options.clip,
        learning_rate=options.lr,
        lr_scheduler_type="constant",
        optim={"sgd": "sgd", "adamw": "adamw_torch", "schedule_free": "schedule_free_adamw"}[options.optimizer],
        logging_steps=5,
        report_to=[],
        disable_tqdm=True,
        seed=options.seed,
        **({"save_strategy": "no"} | strategies),
    )
    callbacks = [Recorder(options, record)]
    if options.trl:
        from tests.workers.trl_trainers import build  # trl takes seconds to import

        trainer = build(options.trl, Recording, model, options.examples, arguments, callbacks=callbacks)
    else:
        trainer = RecordingTrainer(
            model=model,
            args=TrainingArguments(**arguments),
            train_dataset=build_data(options.model, options.examples, options.data_seed),
            eval_dataset=build_data(options.model, 8, 1),
            callbacks=callbacks,
        )
    trainer.record = record
    callback = None
    if options.method == "geo":
        time.sleep(options.late_s)
        callback = plug_into(trainer, settings(options), data="private" if options.private else "shared")
    trainer.train(resume_from_checkpoint=options.resume)
    record["history"] = trainer.state.log_history
    record["steps"] = trainer.state.global_step
    if callback is not None:
        record["summary"] = callback.summary()


if __name__ == "__main__":
    sys.exit(main())
