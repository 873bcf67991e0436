# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The penalty table that the planner chooses by: what a period, a codec and a delay cost in loss beside DDP.

Made by `python -m benchmarks.loss --penalty FILE`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import fmean

from benchmarks.kit.environment import provenance
from benchmarks.kit.job import SMALL
from benchmarks.kit.store import write_json

VERSION = 2
_PERIOD = 8
"""At which codecs and delays are compared."""
_MEAN = (1.0, 0.0)


def write_penalties(file: Path, rows: Mapping[str, Sequence[Mapping]]) -> int:
    """Writes the table into `file`, and says so; returns the exit code: 1 without results to make it from."""
    place = {
        "setting": asdict(SMALL),
        "devices": sorted({one for row in chain(*rows.values()) for one in row["devices"]}),
    }
    try:
        table = penalty_table(rows, provenance() | place)
    except ValueError as error:
        print(f"loss: {error}", file=sys.stderr)
        return 1
    write_json(file, table, indent=1)
    print(f"{file} written: {len(table['base'])} pairs of period and outer step")
    return 0


def penalty_table(rows: Mapping[str, Sequence[Mapping]], provenance: Mapping[str, object]) -> dict:
    """The table, ready for JSON; a penalty is loss / DDP's loss - 1, the mean over seeds.

    "base" is fine-tuning over two sites that share their text, int8 and a delay of one step. "codec" and "delay" are
    what is added beside int8 and a delay of one step at a period of 8, never less than 0: less is noise. Only measured
    values are in it. "large" is what the outer steps cost beside the plain mean with another model. Raises ValueError
    without results to make it from. `rows` are those of `benchmarks.loss`, by part; a row's "kind" is period, codec,
    delay, outer step and ratio.
    """
    unique = {row["name"]: row for part in ("finetune", "codecs") for row in rows.get(part, ())}
    own = {row["kind"]: row for row in unique.values() if row["gap"] is not None and row["kind"][2]}
    base = {
        (period, outer): row for (period, codec, delay, outer, _), row in own.items() if (codec, delay) == ("int8", 1)
    }
    if (_PERIOD, _MEAN) not in base:
        raise ValueError(
            f"no result of geo_accel with int8 and H={_PERIOD} for fine-tuning over two sites: run "
            "python -m benchmarks.loss --only finetune codecs first."
        )
    zero = base[_PERIOD, _MEAN]["gaps"]

    def extra(row: Mapping) -> float:
        # Seed by seed: what a seed's examples do to all methods is no difference between two.
        return max(0.0, fmean(row["gaps"][seed] - zero[seed] for seed in row["gaps"].keys() & zero.keys()))

    beside = {kind[1:]: extra(row) for kind, row in own.items() if (kind[0], kind[3]) == (_PERIOD, _MEAN)}
    dense = {codec: value for (codec, delay, _, ratio), value in beside.items() if delay == 1 and ratio is None}
    topk = [[ratio, value] for (codec, delay, _, ratio), value in beside.items() if (codec, delay) == ("topk", 1)]
    delays = [[delay / _PERIOD, value] for (codec, delay, _, _), value in beside.items() if codec == "int8"]
    large = {(row["kind"][0], row["kind"][3]): row for row in rows.get("large", ()) if row["loss"] and row["kind"][2]}
    return {
        "version": VERSION,
        "provenance": dict(provenance),
        "base": [
            _entry(key) | {"penalty": row["gap"], "spread": row["gap_spread"], "seeds": len(row["gaps"])}
            for key, row in sorted(base.items())
        ],
        "large": [
            _entry((period, outer))
            | {"beside_mean": row["loss"] / large[period, _MEAN]["loss"] - 1, "seeds": len(row["gaps"])}
            for (period, outer), row in sorted(large.items())
            if outer != _MEAN and (period, _MEAN) in large
        ],
        "codec": {**dense, "topk": sorted(topk, reverse=True)},
        "delay": sorted(delays),
    }


def _entry(key: tuple[int, tuple[float, float]]) -> dict:
    period, (lr, momentum) = key
    return {"sites": 2, "period": period, "outer": {"lr": lr, "momentum": momentum}}
