# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Efficiency over bandwidth and over the period, by method, as a picture. Needs matplotlib (the extra "report")."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from geo_accel.commands.progress import watched
from geo_accel.config.names import AUTO
from geo_accel.plan.simulate import METHODS, PERIODIC, Scenario, simulate
from geo_accel.profile.link import Link

# 10 Mbit/s to 100 Gbit/s, six points a decade, and periods.
_BANDWIDTHS = [10 ** (1 + point / 6) for point in range(25)]
_PERIODS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; and lines that show through.
_LINES = {
    "ssgd": ("#d55e00", "-", 1.8),
    "local-sgd": ("#e69f00", (0, (5, 1.5)), 1.8),
    "enp": ("#cc79a7", (0, (3, 1, 1, 1)), 1.8),
    "dreamddp": ("#009e73", "-", 1.8),
    "auto": ("#0072b2", "-", 4.0),
}
_STREAM_COLOURS = ("#000000", "#56b4e9", "#7f7f7f", "#882255", "#aa9900", "#332288", "#117733")


def draw(path: Path, around: Scenario, slowest_mbps: float, title: str, methods: Sequence[str]) -> None:
    """Writes the picture to `path`: what `methods` cost `around` a scenario whose slowest site has so many Mbit/s."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn = [method for method in methods if method != "none"]
    assert around.profile.link is not None  # `_require_drawable` asks for one
    latency_ms = around.profile.link.latency_s * 1e3
    faster = [around.over([Link.of(mbps=mbps, latency_ms=latency_ms)]) for mbps in _BANDWIDTHS]
    longer = [replace(around, period=period) for period in _PERIODS]
    jobs = [(0, scenario, method) for scenario in faster for method in drawn]
    # Without a period there is one figure for all of them.
    jobs += [(1, s, method) for s in longer for method in drawn if method in PERIODIC or s is longer[0]]
    curves: dict[tuple[int, str], list[float]] = {}
    for panel, scenario, method in watched(jobs, "drawing"):
        curves.setdefault((panel, method), []).append(simulate(scenario, method).efficiency)

    style = {"font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.spines.top": False}
    with rc_context({**style, "axes.spines.right": False}):
        # So far apart, or the last label of one panel meets the first of the other.
        figure = Figure(figsize=(11, 5), layout=ConstrainedLayoutEngine(w_pad=0.15))
        left, right = figure.subplots(1, 2, sharey=True)
        for panel, axes, xs in ((0, left, _BANDWIDTHS), (1, right, _PERIODS)):
            for method in drawn:
                ys = curves[panel, method]
                colour, dashes, width = _line(method)
                # What has no period is flat over it.
                ys = ys * len(xs) if len(ys) == 1 else ys
                order = 1 if method == AUTO else 2
                axes.plot(xs, ys, color=colour, ls=dashes, lw=width, label=method, zorder=order, clip_on=False)
            axes.set_xscale("log", base=10 if panel == 0 else 2)
            axes.set_xlim(xs[0], xs[-1])
            axes.set_ylim(0, 1.02)
            axes.grid(alpha=0.25)
        left.set_xticks([10, 100, 1e3, 1e4, 1e5], ["10 M", "100 M", "1 G", "10 G", "100 G"])
        right.set_xticks([1, 2, 4, 8, 16, 32, 64, 128, 256])
        right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        left.set_xlabel("bandwidth of the slowest site, bit/s")
        left.set_ylabel("efficiency: step time without WAN / with it")
        right.set_xlabel("period H, steps")
        period = around.period
        left.set_title(
            "Over bandwidth, " + ("H as short as affordable" if period == AUTO else f"H = {period} (auto: its own)")
        )
        right.set_title(f"Over the period, at {slowest_mbps:g} Mbit/s")
        if _BANDWIDTHS[0] <= slowest_mbps <= _BANDWIDTHS[-1]:
            left.axvline(slowest_mbps, color="#7f7f7f", lw=1, ls=":")
        if period != AUTO:
            right.axvline(period, color="#7f7f7f", lw=1, ls=":")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        columns = -(-len(drawn) // 2)  # one row of all methods would be wider than the picture
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
        figure.savefig(path, dpi=140)


def _line(method: str) -> tuple:
    """Colour, dashes and width of a method's curve."""
    if method in _LINES:
        return _LINES[method]
    streams = [name for name in METHODS if name not in _LINES and name != "none"]
    place = streams.index(method)
    return _STREAM_COLOURS[place % len(_STREAM_COLOURS)], (0, (1 + place, 1 + place)), 1.8
