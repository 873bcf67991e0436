# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What rounds take from an accelerator: `python -m benchmarks.accelerator`.

GPT-2 as published (124 M parameters, bf16 autocast), two sites in two processes that share one accelerator and talk
over loopback. Steps without communication and with geo_accel, everything "auto", take turns. Writes
runs/accelerator/results.json and table.md. Exits with 1 where there is no accelerator or a site failed.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console

from benchmarks.tables import as_markdown, as_table
from geo_accel.testing.launch import run_workers

RESULTS = Path("runs/accelerator")
SITES, BATCH, BLOCK, TURNS = 2, 8, 512, 5
HEADINGS = ("", "step ms", "beside none", "waited ms", "peak MiB")
_TIMEOUT_S = 400.0


def main(arguments: list[str] | None = None) -> int:
    """Runs the sites; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        work(options.worker)
        return 0
    import torch

    if not torch.cuda.is_available():
        print("accelerator: torch sees none here", file=sys.stderr)
        return 1
    console, folder = Console(), RESULTS.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with console.status("GPT-2 small, two sites on one accelerator"):
        finished = run_workers(
            ["benchmarks.accelerator", "--worker", str(folder)],
            sites=(1,) * SITES,
            timeout_s=_TIMEOUT_S,
            environ={"ACCELERATE_USE_CPU": "false"},
        )
    for rank, one in enumerate(finished):
        if one.returncode:
            print(f"rank {rank} failed:\n{one.output[-3000:]}", file=sys.stderr)
            return 1
    sites = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(SITES)]
    body = rows(sites)
    (folder / "results.json").write_text(json.dumps(sites, indent=1) + "\n")
    (folder / "table.md").write_text(as_markdown(HEADINGS, body))
    console.print(as_table(f"GPT-2 small, {sites[0]['device']}", HEADINGS, body, ""))
    plan = sites[0]["plan"]
    console.print(f"plan: H = {plan['period']}, {plan['codec']}, delay {plan['delay']}: {plan['reason']}")
    return 0


def rows(sites: list[dict]) -> list[tuple[str, ...]]:
    """The slower site's median step, without and with rounds."""
    step = {name: max(median(site["steps"][name]) for site in sites) for name in ("none", "geo")}
    return [
        (
            label,
            f"{1e3 * step[name]:.1f}",
            f"{step[name] / step['none']:.3f}",
            f"{1e3 * max(site['waited_s'] for site in sites):.2f}" if name == "geo" else "",
            f"{max(site['peak'][name] for site in sites) / 2**20:.0f}",
        )
        for name, label in (("none", "no communication"), ("geo", 'geo_accel, "auto"'))
    ]


def work(folder: Path) -> None:
    """One site."""
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import set_seed
    from transformers import GPT2Config, GPT2LMHeadModel

    from geo_accel import GeoSync
    from geo_accel.profile.device import device_name

    torch.set_num_threads(1)
    accelerator = Accelerator(mixed_precision="bf16", kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
    set_seed(0)
    config = GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    bare = GPT2LMHeadModel(config)
    model, optimizer = accelerator.prepare(bare, torch.optim.AdamW(bare.parameters(), lr=1e-4, fused=True))
    tokens = torch.randint(config.vocab_size, (BATCH, BLOCK), device=accelerator.device)
    geo = GeoSync(accelerator=accelerator, model=model, optimizer=optimizer)

    def step(after=lambda: None) -> float:
        begin = perf_counter()
        accelerator.backward(model(input_ids=tokens, labels=tokens).loss)
        optimizer.step()
        optimizer.zero_grad()
        after()
        torch.cuda.synchronize()
        return perf_counter() - begin

    while geo.engine.plan is None:
        step(geo.step)
    plan = geo.engine.plan
    steps, peak = {"none": [], "geo": []}, {"none": 0, "geo": 0}
    waited_s, count = 0.0, max(20, plan.period)
    for _ in range(TURNS):
        for name in steps:
            accelerator.wait_for_everyone()
            after = geo.step if name == "geo" else lambda: None
            step(after)
            torch.cuda.reset_peak_memory_stats()
            before = geo.engine.figures.exposed_s
            steps[name] += [step(after) for _ in range(count)]
            waited_s += (geo.engine.figures.exposed_s - before) / (count * TURNS)
            peak[name] = max(peak[name], torch.cuda.max_memory_allocated())
            geo.engine.settle()
    record = {
        "device": device_name(accelerator.device),
        "steps": steps,
        "waited_s": waited_s,
        "peak": peak,
        "plan": json.loads(plan.to_json()) | {"rounds": None, "units": None},
        "summary": geo.summary(),
    }
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(record))
    geo.close()
    accelerator.end_training()


if __name__ == "__main__":
    sys.exit(main())
