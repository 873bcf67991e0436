# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a study says: tables for the terminal and in Markdown, pictures, and a file of figures, with what it was
measured on."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.kit.store import write_json
from geo_accel.profile.device import processor_name
from geo_accel.version import __version__

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = {"none": "#7f7f7f", "ddp": "#d55e00", "local_sgd": "#e69f00", "geo": "#0072b2", "outer": "#009e73"}
STYLE = {
    "axes.prop_cycle": "cycler(color=['d55e00', 'e69f00', 'cc79a7', '56b4e9', '009e73', '0072b2'])",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Line = tuple[str, Sequence[tuple[float, float]], Mapping[str, object]]
"""Its name (none if it begins with "_"), its points, and how `Axes.errorbar` draws it."""

_WORDS = ("method", "case", "codec", "target")
"""Headings of columns that are aligned to the left."""


class Table:
    """One table. A column that is empty in every row is left out: a quick study shows only what it can show."""

    def __init__(self, title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> None:
        """`columns` has by heading how `str.format` shows a row; what a row lacks, or has as None, stays empty."""
        cells = {heading: [_cell(form, row) for row in rows] for heading, form in columns.items()}
        kept = {heading: column for heading, column in cells.items() if any(column)}
        self.title, self.headings = title, list(kept)
        self.rows = [list(row) for row in zip(*kept.values(), strict=True)]

    def rich(self, bold: str = "") -> RichTable:
        """For the terminal, headings in two lines, or 80 columns would not do; the row of `bold` stands out."""
        table = RichTable(title=self.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for heading in self.headings:
            side = "left" if heading in _WORDS else "right"
            table.add_column("\n".join(heading.split(" ", 1)), justify=side, overflow="fold")
        for row in self.rows:
            table.add_row(*row, style="bold" if bold and row[0] == bold else None)
        return table

    def markdown(self) -> str:
        """For pages."""
        lines = [self.headings, ["---"] * len(self.headings), *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(form: str, row: Mapping[str, object]) -> str:
    try:
        return form.format(**{name: value for name, value in row.items() if value is not None})
    except KeyError:
        return ""


def goal(name: str, wanted: float, measured: float | None, at_most: bool = False) -> dict:
    """One thing that a study has to show, and whether it held; `measured` is None if it was not."""
    held = measured is not None and (measured <= wanted if at_most else measured >= wanted)
    words = {"bound": "at most" if at_most else "at least", "mark": "yes" if held else "NO"}
    return {"name": name, "wanted": wanted, "measured": measured, "held": held, **words}


def goals_table(title: str, goals: Sequence[Mapping]) -> Table:
    """What was to be shown, what was measured, whether it held; nothing of what was not measured."""
    columns = {"target": "{name}", "wanted": "{bound} {wanted:g}", "measured": "{measured:.3f}", "held": "{mark}"}
    return Table(title, columns, [one for one in goals if one["measured"] is not None])


def logarithmic(axes: Axes, base: int = 10) -> None:
    """The axis at the bottom, with plain numbers."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(base))  # which leaves most out where there are many


def draw_lines(
    path: Path, panels: Mapping[str, tuple[float, Sequence[Line]]], across: str, up: str, log: int | None = None
) -> list[Path]:
    """By title the value to be reached, as a thin line, and lines; `across` and `up` are what the axes show, `log` the
    base of a logarithmic one."""
    with rc_context(STYLE):
        figure = Figure(figsize=(max(9.0, 5.4 * len(panels)), 4.8), layout="constrained")
        all_axes = figure.subplots(1, len(panels), squeeze=False)
        for axes, (title, (target, lines)) in zip(all_axes[0], panels.items(), strict=True):
            for name, points, how in lines:
                axes.errorbar(*zip(*points, strict=True), label=name, **{"marker": "o", "ms": 4, "capsize": 3, **how})
            axes.axhline(target, color=COLOURS["ddp"], lw=0.8, ls=(0, (1, 2)))
            axes.set_title(title)
            axes.set_xlabel(across)
            axes.grid(alpha=0.25, which="both")
            if log is not None:
                logarithmic(axes, log)
        all_axes[0][0].set_ylabel(up)
        figure.legend(*all_axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, dpi=140)
    return [path]


def report(folder: Path, figures: object, tables: Sequence[Table], console: Console) -> list[Path]:
    """Prints `tables` and writes them with their `figures` into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        console.print(table.rich())
    write_json(folder / "results.json", {"provenance": provenance(), "figures": figures}, indent=1)
    (folder / "table.md").write_text("\n".join(f"**{table.title}**\n\n{table.markdown()}" for table in tables))
    return [folder / "results.json", folder / "table.md"]


def machine() -> dict:
    """Processor, cores that may be used, load averages over 1, 5 and 15 minutes, and versions."""
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "geo_accel": __version__,
        **{name: version(name) for name in ("torch", "transformers", "accelerate", "tokenizers")},
    }


def provenance() -> dict:
    """Where figures come from: said in every file of results."""
    command = " ".join(["python", *sys.orig_argv[1:]])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"date": date, "command": command, "machine": machine()}
