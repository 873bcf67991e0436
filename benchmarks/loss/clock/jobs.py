# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which trainings the comparison takes, in which order, and where each runs."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from benchmarks.loss.order import all_rates, widened
from benchmarks.loss.setting import LARGE, LARGE_RATES, Setting

SITES, BANDWIDTH_MBPS = 2, 100.0
TEXT = ("documentation",)
SEEDS = {"finetune": 3, "scratch": 1}
FACTORS = (1.1, 1.2)
"""geo_accel gets more steps too, as times DDP's: it needs more to reach DDP's loss, and has the time for them."""
WARMUP = 14
"""First steps that are not timed where geo_accel is beside; it measures and plans in them."""
_TURNS_STEPS = 140
_DDP_STEPS, _DDP_WARMUP = 12, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training."""

    method: str
    """"ddp", "geo", or "turns": geo_accel and no communication in turns, for efficiency alone."""
    place: str
    """"lab": the emulated WAN; "loopback": where only the loss counts, which no link changes."""
    task: str
    """"finetune" or "scratch"."""
    rate: float
    """Largest learning rate."""
    seed: int
    steps: int
    number: int = 0
    """Runs in turns are alike and are made again, because a machine's speed drifts."""

    def key(self, setting: Setting, digests: Mapping[str, str]) -> str:
        """A hash of everything that defines the run, in hex."""
        whole = {**asdict(self), "setting": asdict(setting), "mbps": BANDWIDTH_MBPS, "sites": SITES, **digests}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def warmup(self) -> int:
        """First steps that are not timed."""
        return _DDP_WARMUP if self.method == "ddp" else WARMUP

    @property
    def name(self) -> str:
        """For people."""
        if self.method == "turns":
            return f"efficiency, run {self.number + 1}"
        if self.place == "lab" and self.method == "ddp":
            return f"DDP's step time, {self.steps} steps"
        method = {"ddp": "DDP on loopback", "geo": "geo_accel"}[self.method]
        return f"{method}, learning rate {self.rate:g}, seed {self.seed}, {self.steps} steps"


Loss = Callable[[Job], float | None]
"""A job's held-out loss; None without a result."""


def ddp(task: str, rate: float, seed: int) -> Job:
    """DDP's loss."""
    return Job(method="ddp", place="loopback", task=task, rate=rate, seed=seed, steps=LARGE.steps)


def ddp_clock() -> Job:
    """DDP's step time, which no task changes."""
    return Job(method="ddp", place="lab", task="scratch", rate=LARGE_RATES[0], seed=0, steps=_DDP_STEPS)


def geo(task: str, rate: float, seed: int, factor: float = 1.0) -> Job:
    """geo_accel with `factor` times DDP's steps."""
    return Job(method="geo", place="lab", task=task, rate=rate, seed=seed, steps=round(factor * LARGE.steps))


def turns(number: int) -> Job:
    """Steps with geo_accel and steps without communication, which no task changes, in turns."""
    rate, steps = LARGE_RATES[0], _TURNS_STEPS
    return Job(method="turns", place="lab", task="scratch", rate=rate, seed=0, steps=steps, number=number)


def rates(task: str, loss: Loss) -> tuple[float, ...]:
    """The learning rates for both methods: `LARGE_RATES`, wider where either does best at an end."""
    return widened(LARGE_RATES, ([loss(make(task, rate, 0)) for rate in LARGE_RATES] for make in (ddp, geo)))


def best_rate(make: Callable[..., Job], task: str, loss: Loss) -> float | None:
    """The best learning rate of `ddp` or `geo` so far; None without any result."""
    found = {rate: loss(make(task, rate, 0)) for rate in all_rates(LARGE_RATES)}
    known = {rate: value for rate, value in found.items() if value is not None}
    return min(known, key=known.__getitem__) if known else None


def trainings(task: str, loss: Loss, seeds: int) -> list[Job]:
    """The jobs of a task that are known so far, in order: results decide about further ones."""
    grid = []
    for rate in sorted(rates(task, loss), key=lambda rate: (rate not in LARGE_RATES, rate)):
        grid += [geo(task, rate, 0), ddp(task, rate, 0)]
    jobs = [ddp_clock(), turns(0), *grid]
    if any(loss(job) is None for job in grid):
        return jobs
    own = {make: best_rate(make, task, loss) for make in (ddp, geo)}
    jobs += [turns(1), *(geo(task, own[geo], 0, factor) for factor in FACTORS)]
    for seed in range(1, seeds):
        jobs += [ddp(task, own[ddp], seed)]
        jobs += [geo(task, own[geo], seed, factor) for factor in (1.0, *FACTORS)]
    return [*jobs, turns(2)]
