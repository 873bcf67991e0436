# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One steady period of a plan as a PNG picture. Needs matplotlib, which the extra "report" brings."""

import io

from geo_accel.commands.drawing import COMPUTE, blocks, length
from geo_accel.plan.timeline import Timeline

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; two shades for steps in turn.
_COLOURS = {
    "forward": ("#a6d8f5", "#c4e5f8"),
    "backward": ("#56b4e9", "#82c7ee"),
    "update": ("#0072b2", "#3390c5"),
    "transfer": ("#009e73", "#7fceb9"),
    "wait": ("#cc79a7", "#cc79a7"),
}
_WORDS = {
    "transfer": "transfer (step of the period that starts it)",
    "wait": "waiting for the network",
}
_ROOM = 0.02
"""The share of the picture's width that a number needs."""


def require_matplotlib() -> None:
    """Raises ValueError, saying what to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("--png needs matplotlib: pip install 'geo-accel[report]'.") from None


def draw(course: Timeline, title: str) -> bytes:
    """The picture, as PNG."""
    require_matplotlib()
    # Not pyplot, which would keep the figure and may open a window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    end, every = length(course), blocks(course)
    figure = Figure(figsize=(11, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for kind, shades in _COLOURS.items():
        row = 1 if kind == "transfer" else 0
        for shade in (0, 1):
            bars = [(b.start, b.stop - b.start) for b in every if b.kind == kind and b.step % 2 == shade]
            # Edges would swallow bars that are narrower than they are.
            axes.broken_barh(bars, (row, 0.85), facecolors=shades[shade], linewidth=0)
    for block in every:
        if block.kind in ("step", "transfer") and block.stop - block.start >= _ROOM * end:
            row = 1 if block.kind == "transfer" else 0
            middle = (block.start + block.stop) / 2
            axes.text(middle, row + 0.43, str(block.step + 1), ha="center", va="center", fontsize=8)
        if block.kind == "step" and block.start > 0:
            axes.axvline(block.start, color="#7f7f7f", linewidth=0.4)
    axes.set_yticks([0.43, 1.43], ["computes", "link"])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, end)
    axes.set_ylim(1.95, -0.1)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("seconds, one steady period (predicted)")
    axes.set_title(title, loc="left", fontsize=10)
    kinds = [kind for kind in (*COMPUTE, "transfer", "wait") if any(block.kind == kind for block in every)]
    handles = [Patch(facecolor=_COLOURS[kind][0], label=_WORDS.get(kind, kind)) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=140)
    return picture.getvalue()
