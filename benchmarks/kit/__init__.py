# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What all studies share: jobs, a worker that trains them, a runner that starts it, one store, one report."""
