# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Fine-tune across data centers joined by slow networks, with Accelerate and Trainer as they are."""

import importlib

from geo_accel.config import ConfigError, GeoConfig, load_config
from geo_accel.version import __version__

# Loaded on first use, so that the command and the planner start without torch.
_LAZY = {
    "GeoSync": "geo_accel.integrations.accelerate",
    "keep_deepspeed_in_site": "geo_accel.integrations.deepspeed",
    "plug_into": "geo_accel.integrations.trainer",
    "shard_in_site": "geo_accel.integrations.data",
    "SiteLostError": "geo_accel.transport.errors",
    "Engine": "geo_accel.sync.engine",
    "Plan": "geo_accel.plan.plan",
}

__all__ = ["ConfigError", "GeoConfig", "__version__", "load_config", *_LAZY]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'geo_accel' has no attribute {name!r}")
