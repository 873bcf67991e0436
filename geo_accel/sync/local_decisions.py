# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Methods that decide by a site's own gradients what is trained: sites would decide differently."""

from typing import Any

from torch import nn


def refuse_local_decisions(model: nn.Module) -> None:
    """Raises ValueError, in one line, for a model with such a method in it.

    AdaLoRA (peft) cuts ranks by importances that each site would compute for itself; averaging weights of unlike
    ranks brings back what was cut, and its rank counts become fractions.
    """
    adapters: Any = getattr(model, "peft_config", None)
    for name, adapter in (adapters or {}).items():
        kind = str(getattr(adapter, "peft_type", "")).rpartition(".")[2]
        if kind == "ADALORA":
            raise ValueError(
                f"adapter {name} is AdaLoRA, which cuts ranks by a site's own gradients, so that sites would train "
                "unlike adapters: use LoRA (LoraConfig) with a fixed rank."
            )
