# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The one seam into trl: what its trainers gather of their metrics in every micro-batch stays in the site.

SFTTrainer gathers 4 times and DPOTrainer 15 times over all ranks, for scalars that are only logged. While a plugged
trainer is inside `training_step`, what these trainers' own code asks its accelerator to gather is gathered in the
site: logs then hold the site's mean, as with the loss. Evaluation gathers over all ranks as ever. Other gathers of trl
(GRPO and RLOO compare rewards across ranks) mean more than a log, and stay what they are.

Tested against the version that `constraints.txt` pins; of another major version or an older one nothing is replaced.
"""

import functools
import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import recursively_apply
from transformers import Trainer

from geo_accel.integrations.one_world.trainer_seam import gathered
from geo_accel.integrations.trainer_seam import replacing

logger = logging.getLogger("geo_accel")

# Whose gathers of the accelerator are metrics. KTO's estimate of the divergence becomes the site's.
MODULES = tuple(f"trl.trainer.{name}_trainer" for name in ("sft", "dpo", "reward", "kto"))
VERSIONS = ((1, 16), (2,))
"""From the first, below the second."""


@contextmanager
def metrics_in_site(trainer: Trainer, group: dist.ProcessGroup) -> Generator[None]:
    """Inside the block, what `trainer` gathers of its metrics in training steps is gathered over `group` only.

    Trainers of other kinds are left alone. A version of trl that is not known is left alone too, with a warning.
    """
    if not any(kind.__module__ in MODULES for kind in type(trainer).__mro__):
        yield
        return
    if not is_known(found := installed()):
        logger.warning(
            "geo_accel does not know how trl %s gathers its metrics: they cross to all sites in every step. Install "
            "trl>=%s,<%s.",
            found,
            *(".".join(map(str, bound)) for bound in VERSIONS),
        )
        yield
        return
    training_step = trainer.training_step

    @functools.wraps(training_step)
    def in_site(*args: Any, **kwargs: Any) -> torch.Tensor:
        with _gathering_in(trainer.accelerator, group):
            return training_step(*args, **kwargs)

    with replacing(trainer, "training_step", in_site):
        yield


def installed() -> str | None:
    """trl's version; None where it is not installed."""
    try:
        return version("trl")
    except PackageNotFoundError:
        return None


def is_known(found: str | None) -> bool:
    """Whether this is a version whose gathers were looked at."""
    numbers = tuple(int(part) for part in (found or "0").split(".")[:2] if part.isdigit())
    return VERSIONS[0] <= numbers < VERSIONS[1]


@contextmanager
def _gathering_in(accelerator: Accelerator, group: dist.ProcessGroup) -> Generator[None]:
    def for_metrics(original: Callable) -> Callable:
        @functools.wraps(original)
        def gather(data: object, *args: object, **kwargs: object) -> object:
            if sys._getframe(1).f_globals.get("__name__") not in MODULES:
                return original(data, *args, **kwargs)
            return recursively_apply(functools.partial(gathered, group=group), data, error_on_other_type=True)

        return gather

    with (
        replacing(accelerator, "gather", for_metrics(accelerator.gather)),
        replacing(accelerator, "gather_for_metrics", for_metrics(accelerator.gather_for_metrics)),
    ):
        yield
