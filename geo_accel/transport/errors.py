# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What goes wrong between sites, with the name of who is missing."""


class SiteLostError(RuntimeError):
    """A site died, fell silent or cannot be reached; training cannot go on with it."""


class DamagedPayloadError(SiteLostError):
    """What a site sent arrived cut off or changed; nothing of it was used."""


class OutOfStepError(SiteLostError):
    """Sites do unlike things where all have to do the same; nothing of it was used."""
