# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""`report.png`: step times, loss against time, and what the sites did during two periods of geo_accel."""

import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.demo.course import METHODS, Course
from benchmarks.kit.figures import loss_curve
from benchmarks.kit.job import Job, window
from benchmarks.kit.report import COLOURS, STYLE, logarithmic

LINES = {"none": (0, (1, 1)), "ddp": "-", "local_sgd": (0, (5, 1.5)), "geo": "-"}
COMPUTE = ("#56b4e9", "#a6d8f5")
TRANSFER = ("#009e73", "#7fceb9")
WAIT = "#cc79a7"
_WIDTH = 8


def draw(path: Path, job: Job, course: Course, traces: Path) -> None:
    """Draws the report into `path`; `traces` is the folder with geo_accel's traces."""
    figures, millions = course.figures, course.sites("geo")[0]["parameters"] / 1e6
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 8.2), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1])
        bars, losses = top.subplots(1, 2, width_ratios=[1, 1.25])
        _bars(bars, figures)
        for method, name in METHODS.items():
            how = {"color": COLOURS[method], "ls": LINES[method]}
            curve = stretched(loss_curve(course.sites(method), _WIDTH), figures[method]["step_s"], job.warmup)
            losses.plot(*zip(*curve, strict=True), lw=2, label=name, **how)
            losses.plot(*curve[-1], "o", ms=5, **how)
        logarithmic(losses)
        losses.set_xlabel("seconds since the first step, at the step times on the left (logarithmic)")
        losses.set_ylabel("training loss, nats per token")
        losses.set_title("Loss against time (mean over sites and 8 steps)")
        losses.grid(alpha=0.25, which="both")
        losses.legend(frameon=False)
        _timeline(bottom.subplots(), job, course, traces)
        figure.suptitle(
            f"Training GPT-2 ({millions:.1f} M parameters) on {job.sites} sites joined at {job.mbps[0]:g} Mbit/s: "
            "same data, seeds and tokens for every method",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
        figure.savefig(path, dpi=140)


def _bars(axes: Axes, figures: Mapping[str, Mapping]) -> None:
    for place, (method, one) in enumerate(figures.items()):
        step_s, (low, high) = one["step_s"], one["step_s_quartiles"]
        spread = [[max(0.0, step_s - low)], [high - step_s]]
        axes.barh(place, step_s, xerr=spread, color=COLOURS[method], error_kw={"lw": 1})
        text = f"  {step_s:.3f} s"
        text += f"\n  efficiency {one['efficiency']:.3f}" if method != "none" else ""
        axes.text(max(step_s, high), place, text, va="center")
    axes.set_yticks(range(len(figures)), [METHODS[method] for method in figures])
    axes.invert_yaxis()
    axes.set_xlim(0, max(one["step_s_quartiles"][1] for one in figures.values()) * 1.38)
    axes.set_xlabel("seconds per step (median; line: quartiles of turns)")
    axes.set_title("Step time")


def stretched(curve: list[tuple[float, float]], step_s: float, warmup: int) -> list[tuple[float, float]]:
    """`curve`, its seconds all stretched alike, so that a step after the warm-up takes `step_s` on average.

    The runs of two methods have not seen the same machine, the turns in which `step_s` was measured have.
    """
    took_s = curve[-1][0] - (curve[warmup - 1][0] if warmup else 0.0)
    return [(step_s * (len(curve) - warmup) / took_s * seconds, loss) for seconds, loss in curve]


def _timeline(axes: Axes, job: Job, course: Course, traces: Path) -> None:
    plan, names = course.plan, course.sites("geo")[0]["geo"]["sites"]
    first, last = window(job.warmup, course.sites("geo")[0]["geo"]["adopted"], plan["period"])
    zero, length, ticks, labels, waited = None, 0.0, [], [], []
    for site in range(job.sites):
        told = json.loads((traces / f"{names[site]}.0.trace.json").read_text())["traceEvents"]
        events = [event for event in told if event["ph"] == "X"]  # those that have a duration
        steps = {int(event["name"].split()[1]): event for event in events if event["cat"] == "step"}
        begin, end = steps[first]["ts"], steps[last + 1]["ts"]
        zero = begin if zero is None else zero
        length = max(length, (end - zero) / 1e6)
        compute, transfers = 2.4 * site, 2.4 * site + 1
        ticks += [compute + 0.4, transfers + 0.4]
        labels += [f"site{site}: computes", "sends, receives"]
        waited.append(sum(e["dur"] for e in events if e["cat"] == "wait" and begin <= e["ts"] < end) / 1e6)
        for event in events:
            if event["ts"] + event["dur"] < begin or event["ts"] >= end:
                continue
            row, colour, text = compute, WAIT, ""
            if event["cat"] == "step":
                text = event["name"].split()[1]
                colour = COMPUTE[int(text) % 2]
            elif event["cat"] == "transfer" and (slot := event["args"]["slot"]) is not None:
                row, colour, text = transfers, TRANSFER[slot % 2], f"{slot + 1}"
            elif event["cat"] != "wait":
                continue
            start, seconds = (event["ts"] - zero) / 1e6, event["dur"] / 1e6
            axes.broken_barh([(start, seconds)], (row, 0.85), facecolors=colour, edgecolors="white", linewidth=0.6)
            axes.text(start + seconds / 2, row + 0.43, text, ha="center", va="center", fontsize=8, clip_on=True)
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, length)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("seconds")
    axes.set_title(
        f"geo_accel, two periods of {plan['period']} steps: transfers run while the sites compute (waiting: "
        + ", ".join(f"site{site} {seconds:.2f} s" for site, seconds in enumerate(waited))
        + f" of {length:.1f} s)"
    )
    handles = [
        Patch(facecolor=COMPUTE[0], label="compute (number of the step)"),
        Patch(facecolor=TRANSFER[0], label=f"transfer (part of the model, {plan['codec']})"),
        Patch(facecolor=WAIT, label="waiting for the network"),
    ]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, frameon=False)
