# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The measured model that plans are made for: GPT-2's layers, made small."""

from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, UnitProfile

SIZES = {"ln_f": 512, **{f"h.{i}": 789_760 for i in reversed(range(8))}, "wpe": 32_768, "wte": 2_097_152}


def gpt2(**changes):
    units = tuple(
        UnitProfile(name=name, numel=size, forward_s=0.01, backward_s=0.02, update_s=0.001)
        for name, size in SIZES.items()
    )
    links = tuple((site, Link.of(mbps=95, latency_ms=1)) for site in ("here", "there"))
    return Profile(**({"units": units, "links": links} | changes))
