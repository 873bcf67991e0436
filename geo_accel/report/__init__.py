# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a run says of itself."""
