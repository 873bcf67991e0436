# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Four sites with unequal links, and compression that follows them."""
