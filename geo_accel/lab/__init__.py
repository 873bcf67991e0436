# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A WAN on one machine: sites in network namespaces, joined by links of a chosen rate, latency and loss."""

from geo_accel.lab.changes import RateChange, make_rate_changes
from geo_accel.lab.launch import Lab, LabResult, RateChangeResult, SiteResult, run_sites
from geo_accel.lab.namespaces import LabUnavailable, why_unavailable
from geo_accel.lab.sites import Site, make_sites

__all__ = [
    "Lab",
    "LabResult",
    "LabUnavailable",
    "RateChange",
    "RateChangeResult",
    "Site",
    "SiteResult",
    "make_rate_changes",
    "make_sites",
    "run_sites",
    "why_unavailable",
]
