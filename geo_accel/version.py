# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The one place that says which version this is; `setup.cfg` and the package read it from here."""

__version__ = "0.1.0"
