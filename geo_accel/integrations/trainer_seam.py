# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The one private seam into Trainer: where it decides, saves and ends.

Only the job's first rank writes weights, by a property of its arguments and a method of its models: both are replaced
while something is written. Where Trainer decides, saves and ends it has methods, of which `HOOKS` are wrapped and
`CALLED` are called. Tested against the version that `constraints.txt` pins; a version without them is refused.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import transformers
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

HOOKS = {
    "_save_checkpoint": ("model", "trial"),
    "_determine_best_metric": ("metrics", "trial"),
    "_init_training_state": (
        "max_steps",
        "num_update_steps_per_epoch",
        "num_train_epochs",
        "resume_from_checkpoint",
        "trial",
    ),
    "_finalize_training": ("trial", "num_train_samples", "start_time"),
    "get_batch_samples": ("epoch_iterator", "num_batches", "device"),
}
"""Methods of Trainer that are wrapped, and what they are called with."""
CALLED = {
    "_maybe_log_save_evaluate": (
        "tr_loss",
        "grad_norm",
        "model",
        "trial",
        "epoch",
        "ignore_keys_for_eval",
        "start_time",
        "learning_rate",
    ),
    "_save": ("output_dir", "state_dict"),
    "_get_output_dir": ("trial",),
}
"""Methods of Trainer that are called."""


def require_hooks(trainer: Trainer) -> None:
    """Raises ValueError where this version of transformers decides or saves elsewhere."""
    missing = [name for name in (*HOOKS, *CALLED) if not hasattr(trainer, name)]
    missing += ["callback_handler.call_event"] if not hasattr(trainer.callback_handler, "call_event") else []
    missing += [
        f"{owner.__name__}.{name}"
        for owner, name in ((TrainingArguments, "should_save"), (PreTrainedModel, "should_save_on_this_rank"))
        if not hasattr(owner, name)
    ]
    if missing:
        raise ValueError(
            f"transformers {transformers.__version__} has no {missing[0]} of Trainer: this geo_accel does not know "
            "where it decides and saves. Install a version in the range that geo_accel's setup names."
        )


def output_dir(arguments: TrainingArguments) -> str:
    """The folder of its checkpoints, for which it has a default."""
    assert arguments.output_dir is not None
    return arguments.output_dir


@contextmanager
def writing(arguments: TrainingArguments, writes: bool, gathers: bool = False) -> Generator[None]:
    """Inside the block this rank writes what Trainer and the models of transformers save, or not, as `writes` says.

    With `gathers` a rank that writes is also given the whole of what DeepSpeed has partitioned.
    """

    def should_save_on_this_rank(self: PreTrainedModel, is_main_process: bool) -> bool:
        return is_main_process

    with ExitStack() as replaced:
        replaced.enter_context(replacing(type(arguments), "should_save", property(lambda self: writes)))
        replaced.enter_context(replacing(PreTrainedModel, "should_save_on_this_rank", should_save_on_this_rank))
        engine = sys.modules.get("deepspeed.runtime.engine")
        if engine is not None and writes and gathers:
            replaced.enter_context(replacing(engine, "dist", _AsFirstRank(engine.dist)))
        yield


class _AsFirstRank(ModuleType):
    """deepspeed.comm as the job's first rank sees it, which alone keeps what ZeRO-3 gathers."""

    def __init__(self, comm: ModuleType) -> None:
        super().__init__(comm.__name__)
        self._comm = comm

    def get_rank(self, group: object = None) -> int:
        return 0 if group is None else self._comm.get_rank(group)

    def __getattr__(self, name: str) -> object:
        return getattr(self._comm, name)


@contextmanager
def replacing(owner: object, name: str, value: object) -> Generator[None]:
    """Inside the block `owner` has `value` by that name."""
    inherited, before = name not in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def on_signals(trainer: Trainer, save_and_stop: Callable[[], None]) -> None:
    """Makes transformers' checkpoint on SIGTERM call `save_and_stop` where it would write by itself.

    It would write in the midst of a step of one process, which no other site knows of.
    """
    for callback in trainer.callback_handler.callbacks:
        manager: Any = getattr(callback, "jit_manager", None)
        if isinstance(callback, TrainerCallback) and hasattr(manager, "execute_jit_checkpoint"):

            def execute(manager: Any = manager) -> None:
                manager.is_checkpoint_requested = False
                save_and_stop()

            manager.execute_jit_checkpoint = execute
