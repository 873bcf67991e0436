# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The pictures that studies draw: lines, in panels side by side, and what they are to reach."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file is drawn, no window opened

from matplotlib import pyplot
from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = {"none": "#7f7f7f", "ddp": "#d55e00", "local_sgd": "#e69f00", "geo": "#0072b2", "outer": "#009e73"}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


Line = tuple[str, Sequence[tuple[float, float]], Mapping[str, object]]
"""Its name (none if it begins with "_"), its points, and how `Axes.errorbar` draws it."""


def logarithmic(axes: Axes, base: int = 10) -> None:
    """The axis at the bottom, with plain numbers."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def draw_lines(
    path: Path, panels: Mapping[str, tuple[float, Sequence[Line]]], across: str, up: str, log: int | None = None
) -> list[Path]:
    """By title the value to be reached, as a thin line, and lines; `across` and `up` are what the axes show, `log` the
    base of a logarithmic one."""
    with pyplot.rc_context(STYLE):
        size = (max(9.0, 5.4 * len(panels)), 4.8)
        figure, all_axes = pyplot.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
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
        pyplot.close(figure)
    return [path]
