# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What the demo prints at its end."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.demo.figures import Figures, Target
from benchmarks.demo.setting import METHODS


def results_table(figures: Mapping[str, Figures], title: str) -> Table:
    """One row per method."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    for heading in (
        "step\ns",
        "\nefficiency",
        "WAN MB\nper step",
        "eval\nloss",
        "speed\n/ DDP",
        "speed /\nLocalSGD",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for method, name in METHODS.items():
        one = figures[method]
        table.add_row(
            name,
            f"{one.step_s:.3f}",
            f"{one.efficiency:.3f}",
            f"{one.wan_bytes_per_step / 1e6:.2f}",
            f"{one.eval_loss:.3f}",
            f"{one.efficiency / figures['ddp'].efficiency:.2f} ×",
            f"{one.efficiency / figures['local_sgd'].efficiency:.2f} ×",
            style="bold" if method == "geo" else None,
        )
    return table


def targets_table(targets: Sequence[Target]) -> Table:
    """What was to be shown, what was measured, whether it held."""
    table = Table(title="what the demo has to show", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("target", "at least", "measured", "held"):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for one in targets:
        mark = "[green]yes[/]" if one.held else "[bold red]NO[/]"
        table.add_row(one.name, f"{one.wanted:g}", f"{one.measured:.3f}", mark)
    return table
