# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Four sites with unequal links, and ratios that follow them: `python -m benchmarks.unequal`.

Uplinks of 100, 50, 20 and 100 Mbit/s; once the downlinks are as slow, once they are fast. Every method fine-tunes
the small GPT-2 of `benchmarks.loss`, each site on its own kind of text, in the emulated WAN: training loss against
seconds, how long a method takes to the loss that the baseline ends with, and when each site has sent its share of a
round. The baseline is one top-k ratio everywhere without feedback, in blocking rounds. Writes results.json and
table.md below runs/unequal.
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from statistics import fmean, median

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.loss.cases import Group
from benchmarks.loss.material import Material, make_material
from benchmarks.loss.setting import FULL
from benchmarks.tables import as_markdown, as_table
from geo_accel.lab import Lab, make_sites
from geo_accel.testing.bytes_worker import bytes_sent

RESULTS, MATERIAL = Path("runs/unequal"), Path("runs/loss")
UPLINKS = (100.0, 50.0, 20.0, 100.0)
FAST_DOWNLINK = 1000.0
SCENARIOS = {"slow in both directions": UPLINKS, "slow uplinks only": (FAST_DOWNLINK,) * len(UPLINKS)}
GROUP = Group(task="finetune", sites=len(UPLINKS), split="own")
RATE, STEPS = 2e-3, 240
_SMOOTHED = 12
_ROUNDS = 5
_TIMEOUT_S = 1800.0

_TOPK = {"codec": "topk"}
METHODS = {
    "top-k 1 %, lost rest": {
        "sync": {"mode": "blocking", "schedule": "full", "period": 8, "outer": "mean", "exchange": "direct"},
        "compression": {**_TOPK, "ratio": 0.01, "residual": "none", "overlap_weighting": False},
    },
    "top-k, ratios by link": {"sync": {"period": 4}, "compression": _TOPK},
    "top-k, overlap weighted": {"sync": {"period": 4}, "compression": {**_TOPK, "overlap_weighting": True}},
    "top-k, outer lr 2": {
        "sync": {"period": 4, "outer": {"type": "nesterov", "lr": 2.0, "momentum": 0.0}},
        "compression": _TOPK,
    },
    "int8": {"sync": {"outer": "mean"}, "compression": {"codec": "int8"}},
    "int4": {"sync": {"outer": "mean"}, "compression": {"codec": "int4"}},
    "int2": {"sync": {"outer": "mean"}, "compression": {"codec": "int2"}},
    "auto": {},
}
BASELINE = next(iter(METHODS))


def main(arguments: list[str] | None = None) -> int:
    """Runs both scenarios; returns the exit code: 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        work(options.worker, options.steps)
        return 0
    console, rows = Console(), []
    with console.status("texts and pretrained weights"):
        material = make_material(FULL, MATERIAL)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as bars:
        for scenario, downlinks in SCENARIOS.items():
            folder = (RESULTS / scenario.replace(" ", "-")).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            bar = bars.add_task(scenario, total=len(METHODS))
            result = Lab(
                [sys.executable, "-m", "benchmarks.unequal", "--worker", str(folder), "--steps", str(options.steps)],
                make_sites(len(UPLINKS), bandwidth_mbps=UPLINKS, downlink_mbps=downlinks),
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MATERIAL": str(material.resolve())},
            ).run(
                timeout_s=_TIMEOUT_S,
                on_output=lambda site, piece, bar=bar: bars.advance(bar, piece.count(b"method ") / len(UPLINKS)),
            )
            if result.exit_code or result.stopped_by:
                print(f"{scenario} failed: {[site.exit_code for site in result.sites]}", file=sys.stderr)
                print(result.sites[0].output[-2000:], file=sys.stderr)
                return 1
            rows += [row | {"scenario": scenario} for row in compare(folder)]
    (RESULTS / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "table.md").write_text(as_markdown(HEADINGS, [cells(row) for row in rows]))
    console.print(as_table("four unequal links", HEADINGS, [cells(row) for row in rows], "method"))
    return 0


def work(folder: Path, steps: int) -> None:
    """One site: every method in one process, from the same weights."""
    import torch
    import torch.distributed as dist
    from accelerate import Accelerator

    from benchmarks.loss.training import (
        Batches,
        evaluation_blocks,
        fresh_model,
        make_optimizer,
        make_scheduler,
        summed_loss,
    )
    from geo_accel import GeoSync

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    site, sites = accelerator.process_index, accelerator.num_processes
    material = Material.read(Path(os.environ["MATERIAL"]))
    held_out = evaluation_blocks(material.of("held_out", GROUP.texts), FULL)[site::sites]
    results = {}
    for name, config in METHODS.items():
        bare = fresh_model(FULL, seed=0)
        with torch.no_grad():
            for key, parameter in bare.named_parameters():
                parameter.copy_(material.start[key])
        raw = make_optimizer(bare, FULL, RATE)
        scheduler = make_scheduler(raw, FULL, steps)
        batches = Batches(material.of("train", (GROUP.texts[site],)), FULL, FULL.batch, 0, site)
        model, optimizer = accelerator.prepare(bare, raw)
        geo = GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=config)
        accelerator.wait_for_everyone()
        boundaries, losses = [time.perf_counter()], []
        for _ in range(steps):
            tokens = batches.next()
            loss = model(input_ids=tokens, labels=tokens).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), FULL.clip)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            geo.step()
            boundaries.append(time.perf_counter())
            losses.append(loss.item())
        plan = geo.engine.plan
        sending = _sending_seconds(geo, plan, accelerator)
        geo.flush()
        total = torch.tensor([summed_loss(bare, held_out), float(len(held_out))], dtype=torch.float64)
        dist.all_reduce(total)
        results[name] = {
            "boundaries": boundaries,
            "losses": losses,
            "loss": (total[0] / total[1]).item(),
            "plan": json.loads(plan.to_json()) | {"rounds": None, "units": None, "words": str(plan.averaging)},
            "sending_s": sending,
            "exposed_s": geo.engine.exposed_s,
        }
        geo.close()
        accelerator.free_memory()
        print("method done", flush=True)
    (folder / f"rank-{site}.json").write_text(json.dumps(results))
    accelerator.end_training()


def _sending_seconds(geo, plan, accelerator) -> float:
    """Seconds from the start of a round of the whole model until this site's share has left, as its kernel counts."""
    from geo_accel.plan.averaging import Outer
    from geo_accel.plan.plan import Piece

    engine, interface, times = geo.engine, os.environ["GLOO_SOCKET_IFNAME"], []
    engine.settle()
    pieces = tuple(Piece(unit) for unit in range(len(engine.units)))
    for _ in range(_ROUNDS):
        accelerator.wait_for_everyone()
        time.sleep(0.2)
        seen, over = [(time.perf_counter(), bytes_sent(interface))], threading.Event()

        def watch(seen=seen, over=over) -> None:
            while not over.wait(0.002):
                seen.append((time.perf_counter(), bytes_sent(interface)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        running = engine._rounds.start(
            pieces, averaging=plan.averaging, outer=Outer(), step=engine.step_count, delay=1
        )
        engine._rounds.apply(running)
        over.set()
        watcher.join()
        begin, before = seen[0]
        # The last hundredth is acknowledgements of what others sent.
        enough = before + 0.97 * (seen[-1][1] - before)
        times.append(next(at for at, count in seen if count >= enough) - begin)
    return median(times)


def compare(folder: Path) -> list[dict]:
    """One row per method: seconds per step on the slowest site, losses, time to the baseline's last training loss."""
    sites = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(len(UPLINKS))]
    curves = {name: _curve([site[name] for site in sites]) for name in METHODS}
    target, rows = curves[BASELINE][-1][1], []
    for name, curve in curves.items():
        reached = next((at for at, loss in curve if loss <= target), None)
        runs = [site[name] for site in sites]
        sending = [run["sending_s"] for run in runs]
        rows.append(
            {
                "method": name,
                "plan": runs[0]["plan"],
                "step_s": curve[-1][0] / len(runs[0]["losses"]),
                "loss": runs[0]["loss"],
                "to_target_s": reached,
                "sending_s": sending,
            }
        )
    baseline = next(row for row in rows if row["method"] == BASELINE)
    for row in rows:
        row["speedup"] = baseline["to_target_s"] / row["to_target_s"] if row["to_target_s"] else None
    return rows


def _curve(runs: list[dict]) -> list[tuple[float, float]]:
    """Seconds on the slowest site and training loss, mean over sites and the last steps, at every step."""
    means = [fmean(losses) for losses in zip(*(run["losses"] for run in runs), strict=True)]
    ends = [max(run["boundaries"][step + 1] - run["boundaries"][0] for run in runs) for step in range(len(means))]
    return [
        (ends[step], fmean(means[max(0, step + 1 - _SMOOTHED) : step + 1]))
        for step in range(_SMOOTHED - 1, len(means))
    ]


HEADINGS = ("scenario", "method", "sends", "exchange", "H", "step s", "loss", "s to target", "speed", "sent after s")


def cells(row: dict) -> tuple[str, ...]:
    """A row of the table, as text."""
    plan, reached = row["plan"], row["to_target_s"]
    return (
        row["scenario"],
        row["method"],
        plan["words"],
        plan["exchange"] + (f" (site {plan['hub']})" if plan["exchange"] == "hub" else ""),
        str(plan["period"]),
        f"{row['step_s']:.3f}",
        f"{row['loss']:.4f}",
        "never" if reached is None else f"{reached:.1f}",
        "" if reached is None else f"{row['speedup']:.2f} ×",
        " ".join(f"{one:.2f}" for one in row["sending_s"]),
    )


if __name__ == "__main__":
    sys.exit(main())
