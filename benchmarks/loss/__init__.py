# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What each method costs in loss: every method at its own best learning rate, several seeds, real processes."""
