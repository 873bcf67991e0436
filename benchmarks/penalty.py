# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The penalty table that the planner chooses by: what a period, a codec and a delay cost in loss beside DDP.

Made by `python -m benchmarks.loss --penalty FILE`.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

_PERIOD = 8
"""At which codecs and delays are compared."""
_MEAN = (1.0, 0.0)


def penalty_table(rows: Mapping[str, Sequence[Mapping]], provenance: Mapping[str, object]) -> dict:
    """The table, ready for JSON; a penalty is loss / DDP's loss - 1, the mean over seeds.

    "base" is fine-tuning over two sites that share their text, int8 and a delay of one step. "codec" and "delay" are
    what is added beside int8 and a delay of one step at a period of 8, never less than 0: less is noise. Only measured
    values are in it. "large" is what the outer steps cost beside the plain mean with another model. Raises ValueError
    without results to make it from. `rows` are those of `benchmarks.loss`, by part.
    """
    own = {row["kind"]: row for part in ("finetune", "codecs") for row in _of_geo(rows.get(part, ()))}
    base = {(kind.period, kind.outer): row for kind, row in own.items() if kind[1:3] == ("int8", 1)}
    if (_PERIOD, _MEAN) not in base:
        raise ValueError(
            f"no result of geo_accel with int8 and H={_PERIOD} for fine-tuning over two sites: run "
            "python -m benchmarks.loss --only finetune codecs first."
        )
    zero = base[_PERIOD, _MEAN]["gaps"]

    def extra(row: Mapping) -> float:
        # Seed by seed: what a seed's examples do to all methods is no difference between two.
        return max(0.0, fmean(row["gaps"][seed] - zero[seed] for seed in row["gaps"].keys() & zero.keys()))

    beside = {kind: extra(row) for kind, row in own.items() if (kind.period, kind.outer) == (_PERIOD, _MEAN)}
    soon = {kind: value for kind, value in beside.items() if kind.delay == 1}
    dense = {kind.codec: value for kind, value in soon.items() if kind.ratio is None}
    topk = [[kind.ratio, value] for kind, value in soon.items() if kind.codec == "topk"]
    delays = [[kind.delay / _PERIOD, value] for kind, value in beside.items() if kind.codec == "int8"]
    large = {(row["kind"].period, row["kind"].outer): row for row in _of_geo(rows.get("large", ()))}
    return {
        "version": 2,
        "provenance": dict(provenance),
        "base": [
            _entry(key, row) | {"penalty": row["gap"], "spread": row["gap_spread"]}
            for key, row in sorted(base.items())
        ],
        "large": [
            _entry((period, outer), row) | {"beside_mean": row["loss"] / large[period, _MEAN]["loss"] - 1}
            for (period, outer), row in sorted(large.items())
            if outer != _MEAN and (period, _MEAN) in large
        ],
        "codec": {**dense, "topk": sorted(topk, reverse=True)},
        "delay": sorted(delays),
    }


def _of_geo(rows: Sequence[Mapping]) -> list[Mapping]:
    """Those with a loss and DDP's beside it."""
    return [row for row in rows if row["gap"] is not None and row["kind"].delay]


def _entry(key: tuple[int, tuple[float, float]], row: Mapping) -> dict:
    period, (lr, momentum) = key
    return {"sites": 2, "period": period, "outer": {"lr": lr, "momentum": momentum}, "seeds": len(row["gaps"])}
