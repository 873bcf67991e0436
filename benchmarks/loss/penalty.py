# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The penalty table that the planner chooses by: what a period, a codec and a delay cost in loss beside DDP."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmarks.loss.figures import Row

VERSION = 2
_PERIOD = 8
"""At which codecs and delays are compared."""
_MEAN = (1.0, 0.0)


def penalty_table(rows: Sequence[Row], large: Sequence[Row], provenance: Mapping[str, object]) -> dict:
    """The table, ready for JSON; a penalty is loss / DDP's loss - 1, the mean over seeds.

    "base" is fine-tuning over two sites that share their text, int8 and a delay of one step. "codec" and "delay" are
    what is added beside int8 and a delay of one step at a period of 8, never less than 0: less is noise. Only measured
    values are in it. "large" is what the outer steps of `large`, the rows of another model, cost beside the plain mean
    there. Raises ValueError without results to make it from.
    """
    own = [row for row in rows if row.gap is not None and row.case.method == "geo" and _is_base_group(row)]
    unique = {row.case.label: row for row in own}.values()
    base = [row for row in unique if row.case.codec == "int8" and row.case.delay == 1]
    plain = {row.case.period: row for row in base if row.case.outer == _MEAN}
    large = [row for row in large if row.loss is not None and row.case.method == "geo"]
    plain_large = {row.case.period: row for row in large if row.case.outer == _MEAN}
    if _PERIOD not in plain:
        raise ValueError(
            f"no result of geo_accel with int8 and H={_PERIOD} for fine-tuning over two sites: run "
            "python -m benchmarks.loss --only finetune codecs first."
        )
    zero = plain[_PERIOD].gaps

    def extra(row: Row) -> float:
        # Seed by seed: what a seed's examples do to all methods is no difference between two.
        return max(0.0, fmean(row.gaps[seed] - zero[seed] for seed in row.gaps.keys() & zero.keys()))

    beside = [row for row in unique if row.case.period == _PERIOD and row.case.outer == _MEAN]
    dense = {row.case.codec: extra(row) for row in beside if row.case.delay == 1 and "ratio" not in _compression(row)}
    sparse = {
        _compression(row)["ratio"]: extra(row) for row in beside if row.case.codec == "topk" and row.case.delay == 1
    }
    delays = {row.case.delay / _PERIOD: extra(row) for row in beside if row.case.codec == "int8"}
    return {
        "version": VERSION,
        "provenance": dict(provenance),
        "base": [
            {
                "sites": row.case.group.sites,
                "period": row.case.period,
                "outer": dict(zip(("lr", "momentum"), row.case.outer, strict=True)),
                "penalty": row.gap,
                "spread": row.gap_spread,
                "seeds": len(row.gaps),
            }
            for row in sorted(base, key=lambda row: (row.case.period, row.case.outer))
        ],
        "large": [
            {
                "sites": row.case.group.sites,
                "period": row.case.period,
                "outer": dict(zip(("lr", "momentum"), row.case.outer, strict=True)),
                "beside_mean": row.loss / plain_large[row.case.period].loss - 1,
                "seeds": len(row.gaps),
            }
            for row in sorted(large, key=lambda row: (row.case.period, row.case.outer))
            if row.case.outer != _MEAN and row.case.period in plain_large
        ],
        "codec": {**dense, "topk": [list(pair) for pair in sorted(sparse.items(), reverse=True)]},
        "delay": [list(pair) for pair in sorted(delays.items())],
    }


def _is_base_group(row: Row) -> bool:
    group = row.case.group
    return (group.task, group.sites, group.split) == ("finetune", 2, "iid")


def _compression(row: Row) -> Mapping[str, object]:
    return row.case.config["compression"]
