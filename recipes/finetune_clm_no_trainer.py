# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Fine-tune a causal language model across sites with Accelerate and a training loop to read and change.

    accelerate launch recipes/finetune_clm_no_trainer.py --model_name_or_path gpt2 --output_dir out

Arguments are those of run_clm_no_trainer.py, or one JSON file with them; README.md beside this file has commands.
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import datasets
import torch
import transformers
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import (
    DummyOptim,
    DummyScheduler,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    parse_flag_from_env,
)
from accelerate.utils.constants import RNG_STATE_NAME
from peft import PeftModel
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import SchedulerType, default_data_collator, get_scheduler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file also runs as a plain script

import geo_accel
from geo_accel.integrations.disks import require_own_folder
from geo_accel.integrations.session import Session
from recipes.agreement import everyones, require_agreement
from recipes.arguments import DataTrainingArguments, GeoArguments, ModelArguments, parse_arguments
from recipes.card import geo_summary, write_card
from recipes.data import site_file
from recipes.evaluation import evaluate_blocks, load_metric
from recipes.exits import awaiting_ranks, run_recipe, user_errors
from recipes.model import save_merged
from recipes.preparation import Prepared, prepare


@dataclass(kw_only=True, slots=True)
class LoopArguments:
    """How to train."""

    output_dir: str | None = field(
        default=None, metadata={"help": "Where results and checkpoints go. {site} becomes the site's name."}
    )
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Blocks per process and micro-batch."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Blocks per process and evaluation batch."})
    learning_rate: float = field(default=5e-5, metadata={"help": "Highest learning rate of AdamW."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of matrices; vectors get none."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Clip gradients to this norm; 0 does not clip."})
    num_train_epochs: int = field(default=3, metadata={"help": "Passes over the data (the smallest site's)."})
    max_train_steps: int | None = field(default=None, metadata={"help": "Optimizer steps, in place of epochs."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Micro-batches per optimizer step."})
    lr_scheduler_type: SchedulerType = field(default="linear", metadata={"help": "Course of the learning rate."})
    num_warmup_steps: int = field(default=0, metadata={"help": "Steps over which the learning rate rises."})
    seed: int = field(
        default=42, metadata={"help": "Seed of fresh weights, dropout and data order; equal everywhere."}
    )
    checkpointing_steps: str | None = field(
        default=None, metadata={"help": "Save the state every so many steps, or 'epoch' for every epoch."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "A step_N or epoch_N folder. {site} becomes the site's name."}
    )
    save_on_each_node: bool = field(
        default=False, metadata={"help": "Save on every machine: for machines without a common file system."}
    )
    ddp_timeout: int = field(
        default=1800, metadata={"help": "Seconds to wait for the other machines at the start, and in collectives."}
    )
    with_tracking: bool = field(default=False, metadata={"help": "Log to the trackers named by --report_to."})
    report_to: str = field(default="all", metadata={"help": "tensorboard, wandb, ...; all those installed."})

    def __post_init__(self) -> None:
        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "num_train_epochs",
            "max_train_steps",
            "gradient_accumulation_steps",
            "ddp_timeout",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}: give at least 1.")
        every = self.checkpointing_steps
        if every is not None and every != "epoch" and not (every.isdigit() and int(every) > 0):
            raise ValueError(f"--checkpointing_steps {every}: give a number of steps or 'epoch'.")
        if every is not None and self.output_dir is None:
            raise ValueError("--checkpointing_steps needs --output_dir.")
        self.output_dir = self.output_dir and site_file(self.output_dir)
        self.resume_from_checkpoint = folder = self.resume_from_checkpoint and site_file(self.resume_from_checkpoint)
        if folder is not None and not any(Path(folder).glob(f"{RNG_STATE_NAME}_*.pkl")):
            raise ValueError(f"--resume_from_checkpoint {folder}: no checkpoint there ({RNG_STATE_NAME}_0.pkl).")


def run(arguments: Sequence[str]) -> None:
    """Parse, prepare, train, evaluate and save; errors as in `recipes.exits`."""
    with user_errors():
        model_arguments, data_arguments, loop, geo_arguments = parse_arguments(
            (ModelArguments, DataTrainingArguments, LoopArguments, GeoArguments), arguments
        )
        accelerator = start(loop)
        if accelerator.state.deepspeed_plugin is not None:
            prepare_deepspeed(accelerator, loop, geo_arguments)
        evaluates = data_arguments.validation_file is not None or not geo_arguments.private_data
        prepared = prepare(
            model_arguments, data_arguments, geo_arguments, train=True, evaluate=evaluates, seed=loop.seed
        )
        train_loader, eval_loader = build_loaders(accelerator, loop, prepared)
        if prepared.session is not None and loop.output_dir is not None:
            require_own_folder(loop.output_dir, prepared.session)
        if not geo_arguments.no_geo:
            # Before steps are counted. In one job over all sites Accelerate deals what is not private by itself.
            deal = geo_accel.shard_in_site if geo_arguments.private_data else geo_accel.shard_over_sites
            train_loader = deal(train_loader, config=geo_arguments.geo_config)
        steps_per_epoch = smallest(
            math.ceil(len(train_loader) / loop.gradient_accumulation_steps), prepared.session, "counting steps"
        )
        max_steps = loop.max_train_steps or loop.num_train_epochs * steps_per_epoch
        first_step = resume_step(loop.resume_from_checkpoint, steps_per_epoch)
        course = {"the number of steps": str(max_steps), "when to save": str(loop.checkpointing_steps)}
        require_agreement(course | {"where to resume from": str(first_step)}, prepared.session)
        optimizer, scheduler = build_optimizer(accelerator, prepared.model, loop, max_steps)
        model, optimizer, scheduler = accelerator.prepare(prepared.model, optimizer, scheduler)
        if loop.with_tracking:
            settings = asdict(loop) | asdict(data_arguments) | asdict(model_arguments) | {"token": None}
            accelerator.init_trackers("finetune_clm_no_trainer", {k: str(v) for k, v in settings.items()})
        metric = load_metric() if evaluates else None

    # geo_accel: GeoSync around the loop, geo.step() in it, geo.flush() before an evaluation.
    geo = geo_sync(accelerator, model, optimizer, geo_arguments)
    with geo or nullcontext():
        if loop.resume_from_checkpoint is not None:
            accelerator.load_state(loop.resume_from_checkpoint)
        progress = tqdm(
            total=max_steps, initial=first_step, disable=not accelerator.is_local_main_process, desc="steps"
        )
        results, step, losses = {}, first_step, MeanLoss()
        model.train()
        batches = endless_batches(accelerator, train_loader, first_step, loop.gradient_accumulation_steps)
        while step < max_steps:
            with accelerator.accumulate(model):
                loss = model(**next(batches)).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients and loop.max_grad_norm > 0:
                    accelerator.clip_grad_norm_(model.parameters(), loop.max_grad_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.add(loss.detach())
            synced = accelerator.sync_gradients
            if geo is not None:
                geo.step()
            if not synced:
                continue
            step += 1
            progress.update(1)
            epoch_ends = step % steps_per_epoch == 0
            if epoch_ends or step == max_steps:
                results["train_loss"] = accelerator.gather(losses.take()).mean().item()
                if metric is not None:
                    if geo is not None:
                        geo.flush()
                    results |= evaluate_blocks(accelerator, model, eval_loader, metric)
                report(accelerator, results, step)
                if loop.with_tracking:
                    accelerator.log(results | (geo.metrics() if geo is not None else {}), step=step)
            folder = checkpoint_folder(loop, step, steps_per_epoch)
            if folder is not None:
                accelerator.save_state(str(folder))
        progress.close()
    accelerator.end_training()
    if loop.output_dir is not None:
        save(accelerator, model, prepared, loop)
        if saves(accelerator, loop):
            results_file = Path(loop.output_dir, "all_results.json")
            results_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            write_card(
                loop.output_dir,
                base_model=model_arguments.model_name_or_path,
                metrics=results,
                summary=geo_summary(geo),
            )


@awaiting_ranks()
def start(loop: LoopArguments) -> Accelerator:
    """Join the other processes. All ranks derive the order of the data from the seed, so none has to be told."""
    joining = InitProcessGroupKwargs(timeout=timedelta(seconds=loop.ddp_timeout))
    deepspeed = parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    if deepspeed and not torch.cuda.is_available():
        joining.backend = "gloo"  # it would choose none, and every process would train alone
    accelerator = Accelerator(
        # Started by torchrun it would not know, and leave models without DDP; told so, it leaves DeepSpeed out.
        cpu=not deepspeed and not torch.accelerator.is_available(),
        gradient_accumulation_steps=loop.gradient_accumulation_steps,
        log_with=loop.report_to if loop.with_tracking else None,
        project_config=ProjectConfiguration(project_dir=loop.output_dir, save_on_each_node=loop.save_on_each_node),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=loop.seed),
        kwargs_handlers=[joining],
        rng_types=[],
    )
    if not accelerator.is_local_main_process:
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    return accelerator


def prepare_deepspeed(accelerator: Accelerator, loop: LoopArguments, arguments: GeoArguments) -> None:
    """What DeepSpeed has to know before there is a model, which ZeRO-3 partitions while it is loaded."""
    if not arguments.no_geo:
        geo_accel.keep_deepspeed_in_site(arguments.geo_config)
    auto = {
        "train_micro_batch_size_per_gpu": loop.per_device_train_batch_size,
        "gradient_clipping": loop.max_grad_norm,
    }
    for key in auto:
        accelerator.state.deepspeed_plugin.fill_match(key, must_match=False, **auto)


def build_optimizer(
    accelerator: Accelerator, model: torch.nn.Module, loop: LoopArguments, max_steps: int
) -> tuple[torch.optim.Optimizer | DummyOptim, LRScheduler | DummyScheduler]:
    """AdamW and its learning rate's course, or Accelerate's stand-ins where DeepSpeed's JSON has an optimizer."""
    groups = decay_groups(model, loop.weight_decay)

    def schedule(optimizer: torch.optim.Optimizer, advances: int = 1) -> LRScheduler:
        return get_scheduler(
            loop.lr_scheduler_type,
            optimizer,
            num_warmup_steps=loop.num_warmup_steps * advances,
            num_training_steps=max_steps * advances,
        )

    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None and "optimizer" in plugin.deepspeed_config:
        optimizer = DummyOptim(groups, lr=loop.learning_rate, weight_decay=loop.weight_decay)
        return optimizer, DummyScheduler(optimizer, lr_scheduler_callable=schedule)
    optimizer = torch.optim.AdamW(groups, lr=loop.learning_rate)
    # An accelerated scheduler advances once per process at each step.
    return optimizer, schedule(optimizer, accelerator.num_processes)


def build_loaders(
    accelerator: Accelerator, loop: LoopArguments, prepared: Prepared
) -> tuple[DataLoader, DataLoader | None]:
    """Prepared loaders: shuffled training blocks, and evaluation blocks with their numbers.

    They draw from generators of their own: an iteration begun when a run is resumed would otherwise take a number from
    the generator that dropout uses, and the resumed run would part from the one that went on.
    """
    train_loader = accelerator.prepare(
        DataLoader(
            prepared.train_blocks,
            shuffle=True,
            collate_fn=default_data_collator,
            batch_size=loop.per_device_train_batch_size,
            generator=torch.Generator().manual_seed(loop.seed),
        )
    )
    if prepared.eval_blocks is None:
        return train_loader, None
    numbered = prepared.eval_blocks.add_column("block", list(range(len(prepared.eval_blocks))))
    eval_loader = DataLoader(numbered, collate_fn=default_data_collator, batch_size=loop.per_device_eval_batch_size)
    return train_loader, accelerator.prepare(eval_loader)


def smallest(number: int, session: Session | None, what: str) -> int:
    """The smallest of all ranks' numbers: sites with private data have epochs of their own. Collective."""
    return min(own for (own,) in everyones([number], session, what).values())


def resume_step(folder: str | None, steps_per_epoch: int) -> int:
    """The optimizer steps done when the checkpoint `folder` was saved, from its name; 0 without one.

    Raises ValueError if it is not named step_N or epoch_N.
    """
    if folder is None:
        return 0
    name = re.fullmatch(r"(step|epoch)_(\d+)", Path(folder).resolve().name)
    if name is None:
        raise ValueError(f"--resume_from_checkpoint {folder}: expected a folder that is named step_N or epoch_N.")
    return int(name[2]) * (steps_per_epoch if name[1] == "epoch" else 1)


def checkpoint_folder(loop: LoopArguments, step: int, steps_per_epoch: int) -> Path | None:
    """Where to save the state after this step, if it is to be saved."""
    if loop.checkpointing_steps is None:
        return None
    by_epoch = loop.checkpointing_steps == "epoch"
    count, rest = divmod(step, steps_per_epoch if by_epoch else int(loop.checkpointing_steps))
    if rest != 0:
        return None
    return Path(loop.output_dir, f"epoch_{count}" if by_epoch else f"step_{step}")


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """The trainable parameters for AdamW: matrices decay, biases and norms do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if parameter.dim() >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.dim() < 2], "weight_decay": 0.0},
    ]


class MeanLoss:
    """Mean of the micro-batches' losses since it was last taken, added up where they are, without waiting for them."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, loss: torch.Tensor) -> None:
        self._sum, self._count = self._sum + loss, self._count + 1

    def take(self) -> torch.Tensor:
        mean = self._sum / self._count
        self._sum, self._count = 0.0, 0
        return mean


def geo_sync(
    accelerator: Accelerator, model: torch.nn.Module, optimizer: torch.optim.Optimizer, arguments: GeoArguments
) -> geo_accel.GeoSync | None:
    """What keeps the sites in step; None with --no_geo."""
    if arguments.no_geo:
        return None
    return geo_accel.GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=arguments.geo_config)


def endless_batches(
    accelerator: Accelerator, loader: DataLoader, first_step: int, accumulation: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of epoch after epoch of this site's data, from where `first_step` optimizer steps have led."""
    steps = math.ceil(len(loader) / accumulation)
    epoch, done = divmod(first_step, steps)
    while True:
        loader.set_epoch(epoch)
        yield from accelerator.skip_first_batches(loader, done * accumulation) if done else loader
        epoch, done = epoch + 1, 0


def report(accelerator: Accelerator, results: dict[str, float], step: int) -> None:
    """Print the figures, once on every machine."""
    accelerator.print(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in results.items()))


def saves(accelerator: Accelerator, loop: LoopArguments) -> bool:
    """Whether this process writes the result."""
    return accelerator.is_local_main_process if loop.save_on_each_node else accelerator.is_main_process


def save(accelerator: Accelerator, model: torch.nn.Module, prepared: Prepared, loop: LoopArguments) -> None:
    """Save model and tokenizer so that AutoModelForCausalLM loads them from the output directory. Collective."""
    whole = accelerator.unwrap_model(model)
    weights = accelerator.get_state_dict(model)
    if not saves(accelerator, loop):
        return
    prepared.tokenizer.save_pretrained(loop.output_dir)
    if isinstance(whole, PeftModel):
        save_merged(whole, loop.output_dir)
    else:
        whole.save_pretrained(loop.output_dir, state_dict=weights)


if __name__ == "__main__":
    sys.exit(run_recipe(run, sys.argv[1:]))
