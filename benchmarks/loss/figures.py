# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""From results to rows: each case at its best learning rate, and its gap to DDP at DDP's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

from benchmarks.loss.cases import Case
from benchmarks.loss.order import all_rates, best_rate
from benchmarks.loss.store import Run, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case of one part."""

    part: str
    case: Case
    rate: float | None
    """Its best learning rate; None where every run diverged or none was made."""
    rates: int
    """How many learning rates were tried."""
    losses: dict[int, float]
    """Held-out loss at that rate by seed, nats per token."""
    gaps: dict[int, float]
    """Loss / DDP's loss - 1 by seed, DDP at its own best rate: equal seeds saw equal examples."""
    bytes_per_step: float | None
    """Sent by a site."""
    seconds: float | None
    """That a run took, with its evaluation, on loopback."""
    code: tuple[str, ...] = ()
    """The states of geo_accel's code that the losses are of."""
    devices: tuple[str, ...] = ()
    """What the runs were computed on."""
    remark: str = ""

    @property
    def loss(self) -> float | None:
        """Mean over seeds."""
        return fmean(self.losses.values()) if self.losses else None

    @property
    def gap(self) -> float | None:
        """Mean over the seeds that both have."""
        return fmean(self.gaps.values()) if self.gaps else None

    @property
    def gap_spread(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return stdev(self.gaps.values()) if len(self.gaps) > 1 else None

    @property
    def loss_spread(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return stdev(self.losses.values()) if len(self.losses) > 1 else None

    def to_dict(self) -> dict:
        """Ready for JSON."""
        case = self.case
        return {
            "part": self.part,
            **asdict(case.group),
            "method": case.method,
            "name": case.name,
            "period": case.period,
            "codec": case.codec,
            "delay": case.delay,
            "outer": dict(zip(("lr", "momentum"), case.outer, strict=True)),
            "config": case.config,
            "learning_rate": self.rate,
            "learning_rates_tried": self.rates,
            "losses": {str(seed): loss for seed, loss in self.losses.items()},
            "loss": self.loss,
            "loss_spread": self.loss_spread,
            "gap": self.gap,
            "gap_spread": self.gap_spread,
            "seeds": len(self.losses),
            "bytes_per_step": self.bytes_per_step,
            "seconds": self.seconds,
            "code": list(self.code),
            "devices": list(self.devices),
            "remark": self.remark,
        }


def make_rows(
    parts: Mapping[str, Sequence[Case]], store: Store, seeds: int, left_out: Mapping[str, str] | None = None
) -> list[Row]:
    """A row for every case that has a result or was left out, in the order of the parts."""
    rows = []
    for part, cases in parts.items():
        reference = next(case for case in cases if case.method == "ddp")
        ddp = losses_of(reference, store, seeds)
        for case in cases:
            row = _row(part, case, store, seeds, ddp, (left_out or {}).get(case.label, ""))
            if row.rates or row.remark:
                rows.append(row)
    return rows


def losses_of(case: Case, store: Store, seeds: int) -> dict[int, float]:
    """Losses by seed at the case's best learning rate."""
    rate = best_rate(case, all_rates(case.group.rates), store.loss)
    if rate is None:
        return {}
    found = {seed: store.loss(Run(case=case, rate=rate, seed=seed)) for seed in range(seeds)}
    return {seed: loss for seed, loss in found.items() if loss is not None}


def _row(part: str, case: Case, store: Store, seeds: int, ddp: Mapping[int, float], remark: str) -> Row:
    rates = all_rates(case.group.rates)
    rate = best_rate(case, rates, store.loss)
    tried = [loss for one in rates if (loss := store.loss(Run(case=case, rate=one, seed=0))) is not None]
    losses = losses_of(case, store, seeds)
    if tried and rate is None:
        remark = remark or "diverged at every rate"
    made = [store.find(Run(case=case, rate=rate, seed=seed)) for seed in losses]
    first = made[0] if made else None
    return Row(
        part=part,
        case=case,
        rate=rate,
        rates=len(tried),
        losses=losses,
        gaps={seed: loss / ddp[seed] - 1 for seed, loss in losses.items() if seed in ddp},
        bytes_per_step=first["bytes_per_step"] if first else None,
        seconds=first["seconds"] if first else None,
        code=tuple(sorted({one["code"] for one in made if "code" in one})) if case.method == "geo" else (),
        devices=tuple(sorted({one["device"] for one in made})),
        remark=remark,
    )


def curve(case: Case, store: Store, seeds: int, width: int = 10) -> list[tuple[int, float]]:
    """Steps and training loss at the best rate: mean over sites, seeds and `width` steps before and after.

    Steps too near to an end to have so many around them are left out.
    """
    rate = best_rate(case, all_rates(case.group.rates), store.loss)
    found = [] if rate is None else [store.find(Run(case=case, rate=rate, seed=seed)) for seed in range(seeds)]
    runs = [one["losses"] for one in found if one is not None and "losses" in one and not one["diverged"]]
    if not runs:
        return []
    mean = [fmean(losses) for losses in zip(*runs, strict=True)]
    return [(step + 1, fmean(mean[step - width : step + width + 1])) for step in range(width, len(mean) - width)]
