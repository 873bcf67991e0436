# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Who averages with whom, while sites are lost, come back and join: protocols without sockets and clocks.

The members of a generation decide which one follows it, and how many rounds of theirs count.
"""
