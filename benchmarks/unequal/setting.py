# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The links, the job and the methods."""

from benchmarks.loss.cases import Group

UPLINKS = (100.0, 50.0, 20.0, 100.0)
"""Mbit/s, by site."""
FAST_DOWNLINK = 1000.0
SCENARIOS = {"slow both ways": UPLINKS, "slow uplinks": (FAST_DOWNLINK,) * len(UPLINKS)}
"""Downlinks by site, Mbit/s."""
GROUP = Group(task="finetune", sites=len(UPLINKS), split="own")
RATE, STEPS = 2e-3, 1440
SHARES = (1 / 24, 1 / 12, 1 / 6)
"""Every method is trained with so many of the steps, each time with its whole learning-rate schedule: what a shorter
run ends with cannot be read off a longer one, whose rate is still high there. The baseline takes all of them, and what
it ends with is the others' target."""

SEEDS = 3
"""Of the methods that the promise compares; one of the others."""

BASELINE = "top-k 1 %, rest lost"
WEIGHTED, CONTROL = "  overlap weighted", "  outer learning rate 2"
UNIFORM, AUTO = ("int8", "int4"), "auto"
_TOPK = {"codec": "topk"}


def _lossy(ratio: float) -> dict:
    """One top-k ratio everywhere without feedback: the training waits for every transfer."""
    return {
        "sync": {"mode": "blocking", "schedule": "full", "period": 8, "outer": "mean", "exchange": "direct"},
        "compression": {**_TOPK, "ratio": ratio, "residual": "none", "overlap_weighting": False},
    }


METHODS = {
    BASELINE: _lossy(0.01),
    "top-k 10 %, rest lost": _lossy(0.1),
    "top-k, ratios by link": {"sync": {"period": 1, "outer": "mean"}, "compression": _TOPK},
    WEIGHTED: {
        "sync": {"period": 1, "outer": "mean"},
        "compression": {**_TOPK, "overlap_weighting": True},
    },
    CONTROL: {
        "sync": {"period": 1, "outer": {"type": "nesterov", "lr": 2.0, "momentum": 0.0}},
        "compression": _TOPK,
    },
    **{name: {"sync": {"outer": "mean"}, "compression": {"codec": name}} for name in UNIFORM},
    AUTO: {},
}
"""geo_accel's settings by method."""


def shares_of(method: str) -> tuple[float, ...]:
    """Of the steps, in the runs of `method`; all methods have the longest of `SHARES`."""
    if method == BASELINE:
        return (SHARES[-1], 1.0)
    # What matters of these is where they end beside the method without.
    return SHARES[-1:] if method in (WEIGHTED, CONTROL) else SHARES


def seeds_of(method: str) -> int:
    """How often `method` is repeated with other examples."""
    return SEEDS if method in (*UNIFORM, AUTO) else 1
