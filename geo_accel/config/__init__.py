# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The "geo_accel" block: what may be set, read from a mapping, a JSON or YAML file, or a DeepSpeed JSON.

"auto" is the default nearly everywhere and means: measure, then choose. Nothing here imports torch.
"""

from geo_accel.config.load import ENVIRONMENT, load_config
from geo_accel.config.names import AUTO, CODECS, DENSE_CODECS, SPARSE_CHUNK, SPARSE_CODECS
from geo_accel.config.parts import Outer, Overlap
from geo_accel.config.rules import ConfigError
from geo_accel.config.schema import (
    CompressionConfig,
    GeoConfig,
    LinkConfig,
    ResilienceConfig,
    Setting,
    SyncConfig,
    differences,
    settings,
)

__all__ = [
    "AUTO",
    "CODECS",
    "DENSE_CODECS",
    "ENVIRONMENT",
    "SPARSE_CHUNK",
    "SPARSE_CODECS",
    "CompressionConfig",
    "ConfigError",
    "GeoConfig",
    "LinkConfig",
    "Outer",
    "Overlap",
    "ResilienceConfig",
    "Setting",
    "SyncConfig",
    "differences",
    "load_config",
    "settings",
]
