# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning recipes: two scripts to launch, and the few modules that they share."""
