# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The picture: what runs of several lengths end with, over their seconds, one panel for each kind of links."""

from pathlib import Path

from matplotlib import pyplot

from benchmarks.loss.drawing import STYLE
from benchmarks.unequal.setting import BASELINE

_SHOWN = {
    BASELINE: ("#d55e00", "-"),
    "top-k 10 %, rest lost": ("#e69f00", "-"),
    "top-k, ratios by link": ("#cc79a7", "-"),
    "int4": ("#009e73", "-"),
    "auto": ("#0072b2", "-"),
}


def draw(path: Path, by_scenario: dict[str, list[dict]]) -> None:
    """`by_scenario` holds `compare`'s rows."""
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(
            1,
            len(by_scenario),
            figsize=(5.2 * len(by_scenario), 4.4),
            layout="constrained",
            sharey=True,
            squeeze=False,
        )
        for axes, (scenario, rows) in zip(panels[0], by_scenario.items(), strict=True):
            for row in rows:
                if row["method"] in _SHOWN:
                    colour, line = _SHOWN[row["method"]]
                    axes.plot(*zip(*row["curve"], strict=True), "o", color=colour, ls=line, ms=4, label=row["method"])
            target = next(row["curve"][-1][1] for row in rows if row["method"] == BASELINE)
            axes.axhline(target, color=_SHOWN[BASELINE][0], lw=0.8, ls=(0, (1, 2)))
            axes.set_title(scenario)
            axes.set_xlabel("seconds")
            axes.grid(alpha=0.25)
        panels[0][0].set_ylabel("held-out loss of the averaged model")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, dpi=140)
        pyplot.close(figure)
