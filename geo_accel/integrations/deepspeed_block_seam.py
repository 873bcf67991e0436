# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The seam into Accelerate's reading of a DeepSpeed JSON: where the "geo_accel" block is found, and left.

Accelerate, which Trainer trains with too, fills in every "auto" of the JSON, whatever the block, and refuses what it
does not know. The JSON is theirs and stays as it is: what Accelerate walks through is a copy without our block.
"""

import functools
from collections.abc import Mapping
from typing import Any

from accelerate import DeepSpeedPlugin
from accelerate.state import AcceleratorState, is_initialized
from transformers.integrations import deepspeed_config

from geo_accel.config.file import BLOCK

_read: object = None
"""The block that was read last."""


def unread_block() -> dict[str, object] | None:
    """{"geo_accel": block} of the JSON that Accelerate or Trainer was given, once for every JSON; None if it has none.

    From the first one on, Accelerate leaves such blocks alone.
    """
    global _read
    plugin = AcceleratorState().deepspeed_plugin if is_initialized() else None
    # Before there is a Trainer, its arguments are all that knows the file.
    told: Mapping = (plugin.deepspeed_config if plugin is not None else deepspeed_config()) or {}
    if BLOCK not in told:
        return None
    _hide_blocks()
    block = told[BLOCK]
    if block is _read:
        return None
    _read = block
    return {BLOCK: block}


def _hide_blocks() -> None:
    fill_in = DeepSpeedPlugin.deepspeed_config_process
    if hasattr(fill_in, "__wrapped__"):
        return

    @functools.wraps(fill_in)
    def without_ours(
        self: DeepSpeedPlugin,
        prefix: str = "",
        mismatches: list | None = None,
        config: dict | None = None,
        must_match: bool = True,
        **kwargs: Any,
    ) -> None:
        if config is None:
            config = {name: block for name, block in self.deepspeed_config.items() if name != BLOCK}
        fill_in(self, prefix, mismatches, config, must_match, **kwargs)

    DeepSpeedPlugin.deepspeed_config_process = without_ours
