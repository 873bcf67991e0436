# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The pictures that studies draw: the gap to DDP by period, loss over seconds on one link and on unequal ones."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file is drawn, no window opened

from matplotlib import pyplot

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = {"none": "#7f7f7f", "ddp": "#d55e00", "local_sgd": "#e69f00", "geo": "#0072b2", "outer": "#009e73"}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_DOTTED = (0, (1, 2))
_BEST = "int8, best outer step (lr, momentum)"
_SERIES = {
    "int8, plain average": (COLOURS["geo"], "o-"),
    "fp32, plain average": ("#cc79a7", "D"),
    _BEST: (COLOURS["outer"], "s--"),
    "LocalSGD": (COLOURS["local_sgd"], "^"),
}


@contextmanager
def picture(path: Path, panels: int = 1, size: tuple[float, float] = (5.5, 4.4)):
    """Gives the figure and its panels, side by side, and saves it."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            1, panels, figsize=(panels * size[0], size[1]), layout="constrained", sharey=True, squeeze=False
        )
        yield figure, list(axes[0])
        figure.savefig(path, dpi=140)
        pyplot.close(figure)


def draw_gaps(path: Path, panels: Mapping[str, Sequence[Mapping]]) -> list[Path]:
    """By title the rows of a part of `benchmarks.loss`: gaps over the period; nothing where there are none."""
    panels = {title: [row for row in rows if row["gap"] is not None] for title, rows in panels.items()}
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        return []
    with picture(path, len(panels)) as (_, all_axes):
        for axes, (title, rows) in zip(all_axes, panels.items(), strict=True):
            lines: dict[str, list[Mapping]] = {name: [] for name in _SERIES}
            for row in sorted(rows, key=lambda row: (row["kind"][0], row["gap"])):
                period, codec, delay, outer, _ = row["kind"]
                name = "LocalSGD" if delay == 0 else _BEST if outer != (1.0, 0.0) else f"{codec}, plain average"
                if delay <= 1 and name in lines and period not in [one["kind"][0] for one in lines[name]]:
                    lines[name].append(row)  # of several outer steps the best
            for name, found in lines.items():
                spread = [100 * (row["gap_spread"] or 0.0) for row in found]
                places, gaps = [row["kind"][0] for row in found], [100 * row["gap"] for row in found]
                colour, form = _SERIES[name]
                axes.errorbar(places, gaps, yerr=spread, fmt=form, color=colour, ms=5, capsize=3, lw=1.6, label=name)
            for row in lines[_BEST]:
                words = "({:g}, {:g})".format(*row["kind"][3])
                axes.annotate(words, (row["kind"][0], 100 * row["gap"]), fontsize=8, color=COLOURS["outer"])
            axes.axhline(0, color=COLOURS["ddp"], lw=1.2)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_xlabel("period H, steps (logarithmic)")
            axes.set_ylabel("held-out loss above DDP's, %")
            axes.set_title(title)
            axes.grid(alpha=0.25)
            axes.legend(frameon=False)
    return [path]


def draw_over_seconds(
    path: Path,
    panels: Mapping[str, Sequence[tuple[str, str, object, Sequence[tuple[float, float]], float | None]]],
    target: Mapping[str, float],
    log: bool = False,
) -> list[Path]:
    """By title lines of loss over seconds (name, colour, dashes, points, loss at the end if a dot is to show it) and
    the `target` that is to be reached."""
    with picture(path, len(panels), (8.5 if len(panels) == 1 else 5.2, 4.8)) as (figure, all_axes):
        for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
            for name, colour, dashes, points, end in lines:
                marker = "" if end is not None else "o"
                axes.plot(*zip(*points, strict=True), marker, color=colour, ls=dashes, ms=4, label=name)
                if end is not None:
                    axes.plot(points[-1][0], end, "o", color=colour, ms=7)
            axes.axhline(target[title], color=COLOURS["ddp"], lw=0.8, ls=_DOTTED)
            if log:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_title(title)
            axes.set_xlabel("seconds since the first step" + " (logarithmic)" * log)
            axes.grid(alpha=0.25, which="both")
        all_axes[0].set_ylabel("loss, nats per token")
        handles = all_axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    return [path]
