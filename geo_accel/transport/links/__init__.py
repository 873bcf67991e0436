# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Bytes between sites that are jobs of their own: over TLS, on lines that may break and come back."""
