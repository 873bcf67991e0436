# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Worker scripts for multi-process tests, started by the standard launchers."""
