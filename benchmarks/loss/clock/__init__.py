# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The promise, measured with clocks: geo_accel with everything "auto" over an emulated WAN against DDP."""
