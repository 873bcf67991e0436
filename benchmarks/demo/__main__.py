# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Trains a small GPT-2 on two emulated sites by four methods and compares them: `python -m benchmarks.demo`.

Writes runs/demo/summary.json, table.md, report.png and model/. DEMO_QUICK=1 gives a shorter version with fewer steps.
Exits with 0 whether or not the targets held, 1 if a run failed, 2 if this machine cannot emulate a network, and 130
after Ctrl-C.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from benchmarks.demo.course import FULL, METHODS, QUICK, Demo, compare, summarise, targets
from benchmarks.demo.report import draw
from benchmarks.kit.environment import machine
from benchmarks.kit.material import BLOCKS, MODEL, make_material, name_of
from benchmarks.kit.report import Table, goals_table
from benchmarks.kit.runner import RunFailed
from benchmarks.kit.store import write_json
from geo_accel.lab import why_unavailable

RESULTS = Path("runs/demo")
COLUMNS = {
    "method": "{name}",
    "step": "{step_s:.3f} s",
    "efficiency": "{efficiency:.3f}",
    "WAN per step": "{sent_mb:.2f} MB",
    "evaluation loss": "{eval_loss:.3f}",
    "speed / DDP": "{over_ddp:.2f} ×",
    "/ LocalSGD": "{over_local_sgd:.2f} ×",
}
_PROMPT = "The class"
# Above this load average other work takes part of the cores that the sites need.
_QUIET_LOAD = 0.5


def main() -> int:
    """Runs the demo; returns its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quick = os.environ.get("DEMO_QUICK", "") not in ("", "0")
    reason = why_unavailable()
    if reason is not None:
        print(f"demo: this machine cannot emulate a network, and nothing is faked: {reason}", file=sys.stderr)
        return 2
    try:
        demonstrate(QUICK if quick else FULL, RESULTS, Console())
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


def demonstrate(demo: Demo, results: Path, console: Console) -> dict:
    """The whole demo, its results below the folder `results`; returns the summary.

    Results of an earlier demo are removed first, so that none is taken for this one's. Raises RunFailed, and
    ValueError where the lab cannot give the network that is asked for.
    """
    began, place, job = time.monotonic(), machine(), demo.job
    work = results / "work"
    for folder in (work, results / "model"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in ("summary.json", "table.md", "report.png"):
        (results / file).unlink(missing_ok=True)
    work.mkdir(parents=True)
    work = work.resolve()
    make_material(job, work)
    sizes = sizes_of(work / name_of(job))
    link = f"{job.sites} sites at {job.mbps[0]:g} Mbit/s"
    console.print(
        f"GPT-2 of {sizes['parameters'] / 1e6:.1f} M parameters, {link}, {job.steps} steps of "
        f"{job.setting.tokens_per_step(job.sites)} tokens per method",
        highlight=False,
    )
    course = compare(demo, work, console, began)
    load = place["load_average"][0]
    if load > _QUIET_LOAD:
        course.notes.append(f"this machine was busy when the demo began (load {load:.1f}): its figures are disturbed")
    shutil.move(work / "model", results / "model")
    AutoTokenizer.from_pretrained(work / name_of(job) / MODEL).save_pretrained(results / "model")
    summary = summarise(demo, sizes, course, place, time.monotonic() - began)
    write_json(results / "summary.json", summary, indent=1)
    rows = [
        {"name": name, **course.figures[method], "sent_mb": summary["wan_bytes_per_step"][method] / 1e6}
        | {f"over_{one}": summary[f"speedup_over_{one}"][method] for one in ("ddp", "local_sgd")}
        for method, name in METHODS.items()
    ]
    table = Table(link, COLUMNS, rows)
    (results / "table.md").write_text(table.markdown())

    console.print(table.rich(bold="geo_accel"))
    plan = course.plan
    console.print(
        f"geo_accel's plan: period {plan['period']} (LocalSGD's too), {plan['schedule']}, {plan['codec']}, applied "
        f"{plan['delay']} step(s) later; the exact average at the end took {summary['geo']['flush_s']:.1f} s",
        highlight=False,
    )
    goals = targets(course.figures, summary["ddp_eval_loss_by_step"])
    console.print(goals_table("what the demo has to show", goals).rich())
    for note in course.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    text = generate(results / "model")
    console.print(f"{results / 'model'} loads and goes on: {text!r}", highlight=False, markup=False)
    draw(results / "report.png", job, sizes["parameters"], course, work / "trace")
    console.print(
        f"{results / 'summary.json'} and {results / 'report.png'} written after {time.monotonic() - began:.0f} s",
        highlight=False,
    )
    return summary


def sizes_of(material: Path) -> dict[str, int]:
    """The model's parameters, and the blocks to train and to evaluate on."""
    with safe_open(material / BLOCKS, "pt") as blocks:
        counts = {split: blocks.get_slice(split).get_shape()[0] for split in ("train", "validation")}
    parameters = AutoModelForCausalLM.from_pretrained(material / MODEL).num_parameters()
    return {"parameters": parameters, "train_blocks": counts["train"], "eval_blocks": counts["validation"]}


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
