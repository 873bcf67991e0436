# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Trains a small GPT-2 on two emulated sites by four methods and compares them: `python -m benchmarks.demo`.

Writes runs/demo/summary.json, table.md, report.png and model/. DEMO_QUICK=1 gives a shorter version with fewer steps.
Exits with 0 whether or not the targets held, 1 if a run failed, 2 if this machine cannot emulate a network, and 130
after Ctrl-C.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from benchmarks.demo.course import compare
from benchmarks.demo.figures import measure, targets
from benchmarks.demo.material import make_material
from benchmarks.demo.progress import Bars
from benchmarks.demo.report import draw
from benchmarks.demo.runs import RunFailed
from benchmarks.demo.setting import FULL, METHODS, QUICK, Setting
from benchmarks.demo.summary import summarise
from benchmarks.demo.tables import HEADINGS, results_table, rows, targets_table
from benchmarks.kit.environment import machine
from benchmarks.tables import as_markdown
from geo_accel.lab import why_unavailable

RESULTS = Path("runs/demo")
_PROMPT = "The class"
# Above this load average other work takes part of the cores that the sites need.
_QUIET_LOAD = 0.5


def main() -> int:
    """Runs the demo; returns its exit code."""
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quick = os.environ.get("DEMO_QUICK", "") not in ("", "0")
    reason = why_unavailable()
    if reason is not None:
        print(f"demo: this machine cannot emulate a network, and nothing is faked: {reason}", file=sys.stderr)
        return 2
    try:
        demonstrate(QUICK if quick else FULL, RESULTS, console)
    except RunFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except ValueError as error:  # the lab's: what it made is not the network that was asked for
        print(f"demo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: stopped; all sites were ended", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def demonstrate(setting: Setting, results: Path, console: Console) -> dict:
    """The whole demo, its results below the folder `results`; returns the summary.

    Results of an earlier demo are removed first, so that none is taken for this one's. Raises RunFailed, and
    ValueError where the lab cannot give the network that is asked for.
    """
    began, place = time.monotonic(), machine()
    work = results / "work"
    for folder in (work, results / "model"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in ("summary.json", "table.md", "report.png"):
        (results / file).unlink(missing_ok=True)
    work.mkdir(parents=True)
    work = work.resolve()
    material = make_material(setting, work)
    console.print(
        f"GPT-2 of {material.parameters / 1e6:.1f} M parameters, {setting.sites} sites at "
        f"{setting.bandwidth_mbps:g} Mbit/s, {setting.steps} steps of {setting.tokens_per_step} tokens per method",
        highlight=False,
    )
    with Bars(console) as bars:
        course = compare(setting, work, bars, began)
    load = place["load_average"][0]
    if load > _QUIET_LOAD:
        course.notes.append(f"this machine was busy when the demo began (load {load:.1f}): its figures are disturbed")
    period = course.plan["period"]
    figures = {
        method: measure(method, course.runs[method], course.turns, setting.warmup, period) for method in METHODS
    }
    shutil.move(work / "model", results / "model")
    material.tokenizer.save_pretrained(results / "model")
    summary = summarise(setting, material, course, figures, place, time.monotonic() - began)
    (results / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (results / "table.md").write_text(as_markdown(HEADINGS, rows(figures)))

    plan, geo = course.plan, summary["geo"]
    console.print(results_table(figures, f"{setting.sites} sites, {setting.bandwidth_mbps:g} Mbit/s"))
    console.print(
        f"geo_accel's plan: period {plan['period']} (LocalSGD's too), {plan['schedule']}, {plan['codec']}, applied "
        f"{plan['delay']} step(s) later; the exact average at the end took {geo['flush_s']:.1f} s",
        highlight=False,
    )
    console.print(targets_table(targets(figures, summary["ddp_eval_loss_by_step"])))
    for note in course.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    text = generate(results / "model")
    console.print(f"{results / 'model'} loads and goes on: {text!r}", highlight=False, markup=False)
    draw(results / "report.png", setting, material.parameters, course, figures, work / "trace")
    console.print(
        f"{results / 'summary.json'} and {results / 'report.png'} written after {time.monotonic() - began:.0f} s",
        highlight=False,
    )
    return summary


def generate(folder: Path) -> str:
    """Loads the trained model as anyone would and lets it write a few words."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(0)
    with torch.no_grad():
        tokens = model.generate(**tokenizer(_PROMPT, return_tensors="pt"), max_new_tokens=16, do_sample=True, top_k=20)
    return tokenizer.decode(tokens[0], skip_special_tokens=True)


if __name__ == "__main__":
    sys.exit(main())
