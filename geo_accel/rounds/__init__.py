# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One round: what a site says, how all average it, and what becomes of its weights."""
