# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What is needed only where one job spans all sites: frameworks bent back from the world to the site.

A job per site has nothing of this; nothing here is imported there.
"""
