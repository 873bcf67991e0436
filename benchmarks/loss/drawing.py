# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The pictures: training loss against tokens, and the gap to DDP by period, by codec and on four sites."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file is drawn, no window opened

from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.loss.cases import Case
from benchmarks.loss.figures import Row, curve
from benchmarks.loss.store import Store

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = {"ddp": "#d55e00", "local_sgd": "#e69f00", "geo": "#0072b2", "outer": "#009e73", "other": "#cc79a7"}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_TITLES = {"finetune": "Fine-tuning", "scratch": "From random weights"}
_SEEN_FROM = 0.25
"""The share of a run that a curve leaves out: at first all methods fall alike, and far."""


def draw(folder: Path, rows: Sequence[Row], store: Store, seeds: int) -> list[Path]:
    """Writes the pictures that `rows` have data for; returns their paths."""
    by_part: dict[str, list[Row]] = {}
    for row in rows:
        by_part.setdefault(row.part, []).append(row)
    with pyplot.rc_context(STYLE):
        drawn = [
            _curves(folder / "loss-by-tokens.png", by_part, store, seeds),
            _periods(folder / "gap-by-period.png", by_part),
            _codecs(folder / "gap-by-codec.png", by_part.get("codecs", [])),
            _four(folder / "gap-on-four-sites.png", by_part),
        ]
    return [path for path in drawn if path is not None]


def _curves(path: Path, by_part: Mapping[str, Sequence[Row]], store: Store, seeds: int) -> Path | None:
    parts = [part for part in _TITLES if any(row.losses for row in by_part.get(part, ()))]
    if not parts:
        return None
    figure, panels = pyplot.subplots(
        1, len(parts), figsize=(5.5 * len(parts), 4.4), layout="constrained", squeeze=False
    )
    for axes, part in zip(panels[0], parts, strict=True):
        for case, colour, line in _main_cases([row.case for row in by_part[part] if row.losses]):
            tokens = store.setting.tokens_per_step(case.group.sites) / 1e3
            points = [point for point in curve(case, store, seeds) if point[0] > _SEEN_FROM * store.setting.steps]
            places, losses = [step * tokens for step, _ in points], [loss for _, loss in points]
            axes.plot(places, losses, color=colour, ls=line, lw=1.8, label=case.name)
        axes.set_xlabel("tokens over all sites, thousands")
        axes.set_ylabel("training loss, nats per byte")
        axes.set_title(_TITLES[part])
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return _save(figure, path)


def _main_cases(cases: Sequence[Case]) -> list[tuple[Case, str, object]]:
    """What a reader wants to see side by side, with colour and line."""
    wanted = []
    for case in cases:
        plain = case.outer == (1.0, 0.0) and case.codec == "int8" and case.delay == 1
        if case.method == "ddp":
            wanted.append((case, COLOURS["ddp"], "-"))
        elif case.method == "local_sgd":
            wanted.append((case, COLOURS["local_sgd"], (0, (5, 1.5))))
        elif plain and case.period in (2, 8, 32):
            wanted.append((case, COLOURS["geo"], {2: "-", 8: (0, (4, 1)), 32: (0, (1, 1))}[case.period]))
        elif case.outer == (0.9, 0.5) and case.period == 8:
            wanted.append((case, COLOURS["outer"], "-"))
    return wanted


def _periods(path: Path, by_part: Mapping[str, Sequence[Row]]) -> Path | None:
    parts = [part for part in _TITLES if any(row.case.method == "geo" and row.gaps for row in by_part.get(part, ()))]
    if not parts:
        return None
    figure, panels = pyplot.subplots(
        1, len(parts), figsize=(5.5 * len(parts), 4.4), layout="constrained", squeeze=False
    )
    for axes, part in zip(panels[0], parts, strict=True):
        rows = [row for row in by_part[part] if row.gaps]
        geo = [row for row in rows if row.case.method == "geo" and row.case.delay == 1]
        plain = [row for row in geo if row.case.outer == (1.0, 0.0)]
        _series(axes, [row for row in plain if row.case.codec == "int8"], "int8, plain average", COLOURS["geo"], "o-")
        _series(axes, [row for row in plain if row.case.codec == "fp32"], "fp32, plain average", COLOURS["other"], "D")
        outer = [row for row in geo if row.case.outer != (1.0, 0.0)]
        best = [
            min((row for row in outer if row.case.period == period), key=lambda row: row.gap)
            for period in sorted({row.case.period for row in outer})
        ]
        _series(axes, best, "int8, best outer step (lr, momentum)", COLOURS["outer"], "s--")
        for row in best:
            axes.annotate(
                f"({row.case.outer[0]:g}, {row.case.outer[1]:g})",
                (row.case.period, 100 * row.gap),
                textcoords="offset points",
                xytext=(6, -12),
                fontsize=8,
                color=COLOURS["outer"],
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )
        local = [row for row in rows if row.case.method == "local_sgd"]
        _series(axes, local, "LocalSGD", COLOURS["local_sgd"], "^")
        axes.axhline(0, color=COLOURS["ddp"], lw=1.2)
        axes.axhline(1, color="#7f7f7f", lw=0.8, ls=(0, (1, 2)))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("period H, steps (logarithmic)")
        axes.set_ylabel("held-out loss above DDP's, %")
        axes.set_title(f"{_TITLES[part]}, each at its best learning rate")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return _save(figure, path)


def _series(axes: Axes, rows: Sequence[Row], name: str, colour: str, form: str) -> None:
    rows = sorted(rows, key=lambda row: row.case.period)
    if rows:
        spread = [100 * (row.gap_spread or 0.0) for row in rows]
        places, gaps = [row.case.period for row in rows], [100 * row.gap for row in rows]
        axes.errorbar(places, gaps, yerr=spread, fmt=form, color=colour, ms=5, capsize=3, lw=1.6, label=name)


def _codecs(path: Path, rows: Sequence[Row]) -> Path | None:
    shown = [row for row in rows if row.gaps and row.case.method == "geo" and row.case.delay == 1]
    if not shown:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.42 * len(shown)), layout="constrained")
    names = [f"{_without_period(row.case.name)} ({row.bytes_per_step / 1e3:.3g} kB per step)" for row in shown]
    _bars(axes, list(zip(names, shown, strict=True)))
    axes.set_title("Codecs at H=8, fine-tuning over two sites")
    return _save(figure, path)


def _four(path: Path, by_part: Mapping[str, Sequence[Row]]) -> Path | None:
    parts = {"four-own": "each site its own kind of text", "four-iid": "every site draws from all text"}
    found = {part: [row for row in by_part.get(part, ()) if row.gaps and row.case.method == "geo"] for part in parts}
    found = {part: rows for part, rows in found.items() if rows}
    if not found:
        return None
    most = max(map(len, found.values()))
    figure, panels = pyplot.subplots(
        len(found), 1, figsize=(8, len(found) * (0.7 + 0.36 * most)), layout="constrained", squeeze=False
    )
    for axes, (part, rows) in zip(panels[:, 0], found.items(), strict=True):
        _bars(axes, [(_without_period(row.case.name), row) for row in rows])
        axes.set_title(f"Four sites, H=8, {parts[part]}")
    return _save(figure, path)


def _bars(axes: Axes, rows: Sequence[tuple[str, Row]]) -> None:
    """One bar per row; one that dwarfs all others is cut off, its figure says how long it is."""
    gaps = [100 * row.gap for _, row in rows]
    ends = sorted(gap + 100 * (row.gap_spread or 0.0) for gap, (_, row) in zip(gaps, rows, strict=True))
    high = ends[-1] if len(ends) < 2 or ends[-1] < 2 * ends[-2] else 1.15 * ends[-2]
    spread = [100 * (row.gap_spread or 0.0) if gap <= high else 0.0 for gap, (_, row) in zip(gaps, rows, strict=True)]
    axes.barh(
        range(len(rows)),
        [min(gap, high) for gap in gaps],
        xerr=spread,
        color=[COLOURS["other"] if "rand" in name else COLOURS["geo"] for name, _ in rows],
        error_kw={"lw": 1, "capsize": 3},
    )
    for place, (gap, width) in enumerate(zip(gaps, spread, strict=True)):
        text = f"  {gap:+.1f} %" + (" (cut off)" if gap > high else "")
        axes.text(max(0.0, min(gap, high)) + width, place, text, va="center", fontsize=8)
    axes.set_xlim(min(0.0, *gaps) * 1.1, 1.18 * high)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel("held-out loss above DDP's, %")
    axes.grid(alpha=0.25, axis="x")


def _without_period(name: str) -> str:
    return name.removeprefix("geo H=8 ")


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=140)
    pyplot.close(figure)
    return path
