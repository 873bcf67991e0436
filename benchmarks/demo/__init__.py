# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The demo: one fine-tuning job on two emulated sites, with four ways to keep the sites together, compared."""
