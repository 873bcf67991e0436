# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""DeepSpeed ZeRO-1 over a WAN, as it is and with geo_accel: `python -m benchmarks.zero`.

Trains the large GPT-2 of `benchmarks.loss` (8.5 M parameters) on two emulated sites of one process at 100 Mbit/s:
ZeRO-1 over both sites, ZeRO-1 with a "geo_accel" block in its JSON, and between them, as the floor, ZeRO-1 on each
site for itself, again and again because a machine's speed drifts. Writes runs/zero/results.json and table.md.
"""

import argparse
import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.environment import steady
from benchmarks.loss.setting import LARGE
from benchmarks.tables import as_markdown, as_table
from geo_accel.lab import Lab, make_sites, why_unavailable

RESULTS = Path("runs/zero")
MBPS, RATE = 100.0, 5e-4
RUNS = (("alone", 40), ("zero", 14), ("alone", 40), ("geo", 140), ("alone", 40))
WARMUP = {"alone": 10, "zero": 4, "geo": 40}
"""First steps that do not count; in geo's it measures, plans, and its links and threads settle."""
METHODS = {"alone": "ZeRO-1, no network", "zero": "ZeRO-1 as it is", "geo": "ZeRO-1 with geo_accel"}
GOAL = 0.9
HEADINGS = ("method", "step s", "efficiency", "sent per step, MB", "plan")
_TIMEOUT_S = 300.0


def main(arguments: list[str] | None = None) -> int:
    """Runs all; returns the exit code: 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        return work(options.worker, options.steps, options.out)
    reason = why_unavailable()
    if reason is not None:
        print(f"zero: this machine cannot emulate a network, and nothing is faked: {reason}", file=sys.stderr)
        return 1
    console, found = Console(), {method: [] for method in METHODS}
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as bars:
        for number, (method, steps) in enumerate(RUNS):
            out = (RESULTS / f"run-{number}").resolve()
            out.mkdir(parents=True, exist_ok=True)
            bar = bars.add_task(METHODS[method], total=steps)
            result = Lab(
                [sys.executable, "-m", "benchmarks.zero", f"--worker={method}", f"--steps={steps}", f"--out={out}"],
                make_sites(2, bandwidth_mbps=MBPS),
                # Ranks of one machine share memory in DeepSpeed, which here would be the network.
                env=steady(DS_ACCELERATOR="cpu", LOCAL_SIZE="1"),
            ).run(
                timeout_s=_TIMEOUT_S,
                on_output=lambda site, piece, bar=bar: bars.advance(bar, piece.count(b"step done") / 2),
            )
            if result.exit_code or result.stopped_by:
                print(f"zero: {METHODS[method]} failed\n{result.sites[0].output[-2000:]}", file=sys.stderr)
                return 1
            found[method].append([json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)])
    rows = compare(found)
    (RESULTS / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    body = [cells(row) for row in rows]
    (RESULTS / "table.md").write_text(as_markdown(HEADINGS, body))
    console.print(as_table(f"two sites, {MBPS:g} Mbit/s", HEADINGS, body, "method"))
    console.print(f"wanted of geo_accel: an efficiency of at least {GOAL}", highlight=False)
    return 0


def compare(found: dict[str, list[list[dict]]]) -> list[dict]:
    """One row per method from what the ranks of its runs wrote."""
    seconds = {
        method: fmean(step for run in runs for step in slowest(run)[WARMUP[method] :])
        for method, runs in found.items()
    }
    return [
        {
            "method": method,
            "step_s": seconds[method],
            "efficiency": seconds["alone"] / seconds[method],
            "sent": found[method][0][0]["sent"],
            "plan": found[method][0][0]["plan"],
        }
        for method in METHODS
    ]


def slowest(run: list[dict]) -> list[float]:
    """Seconds of every step on the site that took longest."""
    sites = [[after - before for before, after in pairwise(rank["boundaries"])] for rank in run]
    return [max(step) for step in zip(*sites, strict=True)]


def cells(row: dict) -> tuple[str, ...]:
    """A row of the table, as text."""
    plan = row["plan"]
    return (
        METHODS[row["method"]],
        f"{row['step_s']:.3f}",
        f"{row['efficiency']:.3f}",
        f"{row['sent'] / 1e6:.2f}",
        f"H = {plan['period']}, {plan['codec']}" if plan else "",
    )


def work(method: str, steps: int, out: Path) -> int:
    """One site's process."""
    rank = os.environ["RANK"]
    if method == "alone":
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    import deepspeed
    import torch

    from benchmarks.loss.training import fresh_model
    from geo_accel import GeoSync, keep_deepspeed_in_site
    from geo_accel.testing.bytes_worker import bytes_sent

    torch.set_num_threads(1)
    told = {
        "train_micro_batch_size_per_gpu": LARGE.batch,
        "gradient_clipping": LARGE.clip,
        "optimizer": {"type": "AdamW", "params": {"lr": RATE, "torch_adam": True}},
        "zero_optimization": {"stage": 1},
        **({"geo_accel": {}} if method == "geo" else {}),
    }
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    if method == "geo":
        keep_deepspeed_in_site(told)
    engine, *_ = deepspeed.initialize(model=fresh_model(LARGE, 0), config=told)
    geo = GeoSync(model=engine, config=told) if method == "geo" else None
    tokens = torch.Generator().manual_seed(int(rank))
    interface, boundaries, sent = os.environ["GLOO_SOCKET_IFNAME"], [perf_counter()], []
    for _ in range(steps):
        batch = torch.randint(LARGE.vocabulary, (LARGE.batch, LARGE.block), generator=tokens)
        engine.backward(engine(input_ids=batch, labels=batch).loss)
        engine.step()
        if geo is not None:
            geo.step()
        boundaries.append(perf_counter())
        sent.append(bytes_sent(interface))
        print("step done", flush=True)
    plan = geo.engine.plan if geo is not None else None
    first = WARMUP[method]
    record = {
        "boundaries": boundaries,
        "sent": (sent[-1] - sent[first]) / (steps - 1 - first) if method != "alone" else 0.0,
        "plan": {"period": plan.period, "codec": plan.codec} if plan else None,
    }
    (out / f"rank-{rank}.json").write_text(json.dumps(record))
    if geo is not None:
        geo.close()
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
