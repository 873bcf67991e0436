# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Measurements that are run by hand: `python -m benchmarks.demo` and its neighbours."""
