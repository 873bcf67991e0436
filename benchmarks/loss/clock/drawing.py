# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Loss against time over the emulated WAN: training curves, and the averaged model's held-out loss at the end."""

from pathlib import Path
from statistics import fmean

from matplotlib import pyplot

from benchmarks.loss.clock.jobs import BANDWIDTH_MBPS, FACTORS, SITES, ddp, geo
from benchmarks.loss.clock.running import Results
from benchmarks.loss.drawing import COLOURS, STYLE

_TITLES = {"finetune": "Fine-tuning", "scratch": "From random weights"}
_WIDTH = 10


def draw(path: Path, task: str, summary: dict, results: Results) -> bool:
    """Draws the first seed's runs at each method's best learning rate; False where one is missing."""
    rates, ddp_step_s = summary["learning_rates"], summary["ddp_step_s"]
    if None in (rates["ddp"], rates["geo"], ddp_step_s):
        return False
    reference = results.find(ddp(task, rates["ddp"], 0))
    runs = [results.find(geo(task, rates["geo"], 0, factor)) for factor in (1.0, *FACTORS)]
    if reference is None or runs[0] is None:
        return False
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(8.5, 4.8), layout="constrained")
        losses = _smooth(reference["recordings"])
        axes.plot([ddp_step_s * (step + 1) for step in range(len(losses))], losses, color=COLOURS["ddp"], label="DDP")
        end_s = ddp_step_s * len(losses)
        target = reference["recordings"][0]["eval_loss"]
        axes.plot(end_s, target, "o", color=COLOURS["ddp"], ms=7)
        axes.axhline(target, color=COLOURS["ddp"], lw=0.8, ls=(0, (1, 2)))
        for run, line in zip(runs, ("-", (0, (4, 1)), (0, (1, 1))), strict=True):
            if run is None:
                continue
            recordings = run["recordings"]
            start = min(one["boundaries"][0] for one in recordings)
            losses = _smooth(recordings)
            seconds = [max(one["boundaries"][step + 1] for one in recordings) - start for step in range(len(losses))]
            axes.plot(seconds, losses, color=COLOURS["geo"], ls=line, label=f'geo_accel, "auto", {len(losses)} steps')
            axes.plot(
                max(one["ended"] for one in recordings) - start, recordings[0]["eval_loss"], "o", color=COLOURS["geo"]
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlim(left=3)
        axes.set_xlabel("seconds since the first step (logarithmic)")
        axes.set_ylabel("loss, nats per token")
        axes.set_title(
            f"{_TITLES[task]} GPT-2 of 8.5 M parameters on {SITES} sites at {BANDWIDTH_MBPS:g} Mbit/s\n"
            "lines: training loss; dots: held-out loss of the averaged model; dotted: DDP's"
        )
        axes.grid(alpha=0.25, which="both")
        axes.legend(frameon=False)
        figure.savefig(path, dpi=140)
        pyplot.close(figure)
    return True


def _smooth(recordings: list[dict]) -> list[float]:
    """Training loss by step: mean over sites and the last ten steps."""
    losses = [fmean(one) for one in zip(*(recording["losses"] for recording in recordings), strict=True)]
    return [fmean(losses[max(0, step + 1 - _WIDTH) : step + 1]) for step in range(len(losses))]
