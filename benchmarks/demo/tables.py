# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What the demo prints at its end."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.demo.figures import Figures, Target
from benchmarks.demo.setting import METHODS

HEADINGS = ("method", "step", "efficiency", "WAN per step", "evaluation loss", "speed / DDP", "/ LocalSGD")


def rows(figures: Mapping[str, Figures]) -> list[tuple[str, ...]]:
    """One per method, as text."""
    return [
        (
            name,
            f"{one.step_s:.3f} s",
            f"{one.efficiency:.3f}",
            f"{one.wan_bytes_per_step / 1e6:.2f} MB",
            f"{one.eval_loss:.3f}",
            f"{one.efficiency / figures['ddp'].efficiency:.2f} ×",
            f"{one.efficiency / figures['local_sgd'].efficiency:.2f} ×",
        )
        for name, one in ((name, figures[method]) for method, name in METHODS.items())
    ]


def results_table(figures: Mapping[str, Figures], title: str) -> Table:
    """For a terminal; headings in two lines, or 80 columns would not do."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in HEADINGS:
        table.add_column("\n".join(heading.split(" ", 1)), justify="left" if heading == "method" else "right")
    for method, row in zip(METHODS, rows(figures), strict=True):
        table.add_row(*row, style="bold" if method == "geo" else None)
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
