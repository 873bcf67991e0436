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
from functools import partial
from pathlib import Path

from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline, set_seed

from benchmarks.demo.course import FULL, METHODS, QUICK, Demo, compare, summarise, targets
from benchmarks.demo.report import draw
from benchmarks.kit.material import MODEL, make_material
from benchmarks.kit.report import Table, goals_table, machine, provenance
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
    "speed / DDP": "{speedup_over_ddp:.2f} ×",
    "/ LocalSGD": "{speedup_over_local_sgd:.2f} ×",
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
    say = partial(console.print, highlight=False, markup=False)
    work = results.resolve() / "work"
    for folder in (work, results / "model"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in ("summary.json", "table.md", "report.png"):
        (results / file).unlink(missing_ok=True)
    work.mkdir(parents=True)
    make_material(job, work)
    start, link = work / job.material / MODEL, f"{job.sites} sites at {job.mbps[0]:g} Mbit/s"
    millions = AutoModelForCausalLM.from_pretrained(start).num_parameters() / 1e6
    say(f"GPT-2 of {millions:.1f} M parameters, {link}, {job.steps} steps of {job.tokens_per_step} tokens per method")
    course = compare(demo, work, console, began)
    load = place["load_average"][0]
    if load > _QUIET_LOAD:
        course.notes.append(f"this machine was busy when the demo began (load {load:.1f}): its figures are disturbed")
    shutil.move(work / "model", results / "model")
    AutoTokenizer.from_pretrained(start).save_pretrained(results / "model")
    summary = summarise(demo, course) | provenance() | {"machine": place, "duration_s": time.monotonic() - began}
    write_json(results / "summary.json", summary, indent=1)
    figures, plan = course.figures, course.plan
    rows = [{"name": METHODS[method], **one} for method, one in figures.items()]
    for row in rows:
        row["sent_mb"] = row["wan_bytes_per_step"] / 1e6
    table = Table(link, COLUMNS, rows)
    (results / "table.md").write_text(table.markdown())

    console.print(table.rich(bold="geo_accel"))
    say(
        f"geo_accel's plan: period {plan['period']} (LocalSGD's too), {plan['schedule']}, {plan['codec']}, applied "
        f"{plan['delay']} step(s) later; the exact average at the end took {summary['geo']['flush_s']:.1f} s"
    )
    goals = targets(figures, summary["ddp_eval_loss_by_step"])
    console.print(goals_table("what the demo has to show", goals).rich())
    for note in course.notes:
        say(f"note: {note}")
    say(f"{results / 'model'} loads and goes on: {generate(results / 'model')!r}")
    draw(results / "report.png", job, course, work / "trace")
    say(f"{results / 'summary.json'} and {results / 'report.png'} written after {time.monotonic() - began:.0f} s")
    return summary


def generate(folder: Path) -> str:
    """Loads the trained model as anyone would and lets it write a few words."""
    set_seed(0)
    writer = pipeline("text-generation", model=str(folder))
    return writer(_PROMPT, max_new_tokens=16, do_sample=True, top_k=20)[0]["generated_text"]


if __name__ == "__main__":
    sys.exit(main())
