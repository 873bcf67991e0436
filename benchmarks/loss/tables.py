# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The rows as text."""

from benchmarks.loss.figures import Row

HEADINGS = ("case", "rate", "loss", "±", "gap", "±", "seeds", "kB/step")
"""Rate: the best learning rate; gap: the loss above DDP's; ±: standard deviation over seeds; kB: sent by a site."""


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table; what is not known stays empty, and a remark says why."""
    name = f"{row.case.name} ({row.remark})" if row.remark else row.case.name
    return (
        name,
        _shown(row.rate, "g"),
        _shown(row.loss, ".4f"),
        _shown(row.loss_spread, ".4f"),
        _shown(None if row.case.method == "ddp" else row.gap, "+.2%"),
        _shown(None if row.case.method == "ddp" else row.gap_spread, ".2%"),
        str(len(row.losses)),
        _shown(None if row.bytes_per_step is None else row.bytes_per_step / 1e3, ".0f"),
    )


def title(row: Row) -> str:
    """Of the table of the row's part."""
    group = row.case.group
    task = {"finetune": "Fine-tuning", "scratch": "From random weights"}[group.task]
    split = {"iid": "every site draws from all text", "own": "each site its own kind of text"}[group.split]
    size = "8.5 M parameters, " if group.large else ""
    return f"{row.part}: {task}, {size}{group.sites} sites, {split} ({', '.join(group.texts)})"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
