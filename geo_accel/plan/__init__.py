# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Deciding what to send when: pure Python over a profile, no torch."""
