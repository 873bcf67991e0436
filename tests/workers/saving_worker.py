# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Trainer runs on this rank in which something asks to save, evaluate or stop where no strategy does.

Started by `tests.workers.launch.run_workers`, several runs separated by `--and`. Writes `rank-R.json` (losses,
what was saved with which weights, evaluations, steps, the error it ended with) and the final weights into --out.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainingArguments

from geo_accel import plug_into
from tests.workers.models import build_data, build_model
from tests.workers.several_runs import exit_code, run_each
from tests.workers.train_worker import RecordingTrainer, fingerprint

CONFIG = {"sync": {"period": 3, "delay": 1}, "compression": {"codec": "bf16"}}


class Stream(IterableDataset):
    """Examples of known number without a length; of one that can be read `passes` times only, if that is given."""

    def __init__(self, examples: list, passes: int | None) -> None:
        self.examples, self.passes = examples, passes

    def __iter__(self) -> Iterator:
        if self.passes is not None:
            self.passes -= 1
            if self.passes < 0:
                return iter(())
        return iter(self.examples)


class Asking(TrainerCallback):
    """Asks for something at an event of one step: "on_log:5:should_save", or calls save_model there, or kills."""

    def __init__(self, trainer: RecordingTrainer, asks: list[str], record: dict) -> None:
        self.trainer, self.record = trainer, record
        self.asks = [(event, int(step), what) for event, step, what in (ask.split(":") for ask in asks)]

    def ask(self, event: str, state: object, control: object) -> None:
        for _, _, what in (ask for ask in self.asks if ask[:2] == (event, state.global_step)):
            if what == "save_model":
                self.trainer.save_model(str(Path(self.trainer.args.output_dir) / "asked"))
            elif what == "sigterm":
                os.kill(os.getpid(), signal.SIGTERM)
            elif what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                setattr(control, what, True)

    def on_step_begin(self, args, state, control, **kwargs):
        self.ask("on_step_begin", state, control)

    def on_log(self, args, state, control, **kwargs):
        self.ask("on_log", state, control)

    def on_save(self, args, state, control, model=None, **kwargs):
        self.record["saved"].append([state.global_step, fingerprint(model)])

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.record["evaluated"].append([state.global_step, metrics["eval_loss"]])


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--disk", type=Path, default=None, help="Trainer's output_dir; --out/trainer unless given")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--passes", type=int, default=None, help="of a stream that ends for good")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--ask", nargs="*", default=[])
    parser.add_argument("--config", default=json.dumps(CONFIG))
    parser.add_argument("--arguments", default="{}", help="more of TrainingArguments, as JSON")
    parser.add_argument("--resume", type=Path, default=None, help="a checkpoint, or a pattern that one fits")
    parser.add_argument("--lr", type=float, default=3e-3)
    return parser.parse_args(arguments)


def run(arguments: list[str]) -> int:
    options = parse(arguments)
    rank = int(os.environ["RANK"])
    set_seed(0)
    model = build_model("gpt2", options.dropout)
    record: dict = {"losses": [], "saved": [], "evaluated": []}
    options.out.mkdir(parents=True, exist_ok=True)
    code = exit_code(lambda: train(options, model, record))
    if code == 0:
        (options.out / f"rank-{rank}.json").write_text(json.dumps(record))
        weights = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, options.out / f"rank-{rank}.safetensors")
    return code


def train(options: argparse.Namespace, model: torch.nn.Module, record: dict) -> None:
    rank = int(os.environ["RANK"])
    settings = {"save_strategy": "no", "logging_steps": 1, "optim": "adamw_torch"} | json.loads(options.arguments)
    arguments = TrainingArguments(
        output_dir=str(options.disk or options.out / "trainer"),
        use_cpu=True,
        ddp_backend="gloo",
        max_steps=options.steps,
        per_device_train_batch_size=2,
        learning_rate=options.lr,
        lr_scheduler_type="constant",
        report_to=[],
        disable_tqdm=True,
        accelerator_config={"dispatch_batches": False},
        **settings,
    )
    data = build_data("gpt2", options.examples, rank if options.private else 0)
    if options.stream:
        data = Stream(list(data), options.passes)
    trainer = RecordingTrainer(model=model, args=arguments, train_dataset=data, eval_dataset=build_data("gpt2", 8, 1))
    trainer.record = record
    plug_into(trainer, json.loads(options.config), data="private" if options.private else "shared")
    trainer.add_callback(Asking(trainer, options.ask, record))
    for callback in trainer.callback_handler.callbacks:
        if getattr(callback, "jit_manager", None) is not None:
            callback.jit_manager.kill_wait = 0
    resume = None
    if options.resume is not None:
        (resume,) = options.resume.parent.glob(options.resume.name)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    record["steps"] = trainer.state.global_step
    record["best"] = trainer.state.best_model_checkpoint
    trainer.save_model()


def main(arguments: list[str] | None = None, run: Callable[[list[str]], int] = run) -> int:
    return run_each(run, arguments)


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """What a checkpoint holds."""
    return load_file(folder / "model.safetensors")


if __name__ == "__main__":
    sys.exit(main())
