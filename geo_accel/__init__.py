# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Fine-tune across data centers joined by slow networks, with Accelerate and Trainer as they are."""

import importlib
from typing import TYPE_CHECKING

from geo_accel.config import ConfigError, GeoConfig, load_config
from geo_accel.version import __version__

# Loaded on first use, so that the command and the planner start without torch.
_LAZY = {
    "GeoSync": "geo_accel.integrations.accelerate",
    "keep_deepspeed_in_site": "geo_accel.integrations.deepspeed",
    "plug_into": "geo_accel.integrations.trainer",
    "shard_in_site": "geo_accel.integrations.data",
    "shard_over_sites": "geo_accel.integrations.data",
    "SiteLostError": "geo_accel.transport.errors",
    "Engine": "geo_accel.sync.engine",
    "Plan": "geo_accel.plan.plan",
}

__all__ = [
    "ConfigError",
    "Engine",
    "GeoConfig",
    "GeoSync",
    "Plan",
    "SiteLostError",
    "__version__",
    "keep_deepspeed_in_site",
    "load_config",
    "plug_into",
    "shard_in_site",
    "shard_over_sites",
]

if TYPE_CHECKING:
    from geo_accel.integrations.accelerate import GeoSync
    from geo_accel.integrations.data import shard_in_site, shard_over_sites
    from geo_accel.integrations.deepspeed import keep_deepspeed_in_site
    from geo_accel.integrations.trainer import plug_into
    from geo_accel.plan.plan import Plan
    from geo_accel.sync.engine import Engine
    from geo_accel.transport.errors import SiteLostError


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'geo_accel' has no attribute {name!r}")
