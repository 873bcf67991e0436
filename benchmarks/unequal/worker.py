# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site in the emulated WAN: every method and seed in one process, from the same weights.

Started by `python -m benchmarks.unequal` as `python -m benchmarks.unequal.worker MATERIAL FOLDER STEPS`. Writes
FOLDER/rank-SITE.json.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from accelerate import Accelerator

from benchmarks.loss.material import Material
from benchmarks.loss.setting import FULL
from benchmarks.loss.training import (
    Batches,
    evaluation_blocks,
    first_model,
    make_optimizer,
    make_scheduler,
    summed_loss,
    train_step,
)
from benchmarks.unequal.setting import GROUP, METHODS, RATE, SEEDS, SHARES, seeds_of, shares_of
from geo_accel import GeoSync
from geo_accel.testing.bytes_worker import bytes_sent

_ROUNDS = 15


def main(material: Path, folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    start, results = Material.read(material), {name: [] for name in METHODS}
    # Seed by seed: a machine's speed drifts, and what is compared should see the same minutes.
    for seed in range(SEEDS):
        for name, config in METHODS.items():
            if seed < seeds_of(name):
                runs = [train(accelerator, start, config, share, steps, seed) for share in shares_of(name)]
                results[name].append(runs)
                # After every method, so that what a stopped run has found can be looked at.
                (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(results))
    accelerator.end_training()


def train(accelerator: Accelerator, material: Material, config: dict, share: float, whole: int, seed: int) -> dict:
    """One run of `share` of the steps: boundaries, the seconds it took, the averaged model's loss, the last plan."""
    site, sites = accelerator.process_index, accelerator.num_processes
    steps = round(share * whole)
    bare = first_model(FULL, 0, material.start)
    raw = make_optimizer(bare, FULL, RATE)
    scheduler = make_scheduler(raw, FULL, steps)
    batches = Batches(material.of("train", (GROUP.texts[site],)), FULL, FULL.batch, seed, site)
    model, optimizer = accelerator.prepare(bare, raw)
    geo = GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=config)
    accelerator.wait_for_everyone()
    boundaries = [time.perf_counter()]
    for _ in range(steps):
        train_step(accelerator, model, optimizer, scheduler, batches.next(), FULL.clip)
        geo.step()
        boundaries.append(time.perf_counter())
    geo.flush()
    ended = time.perf_counter()
    plan, exposed_s = geo.engine.plan, geo.engine.exposed_s
    held_out = evaluation_blocks(material.of("held_out", GROUP.texts), FULL)[site::sites]
    total = torch.tensor([summed_loss(bare, held_out), float(len(held_out))], dtype=torch.float64)
    dist.all_reduce(total)
    record = {
        "boundaries": boundaries,
        "whole_s": ended - boundaries[0],
        "loss": (total[0] / total[1]).item(),
        "plan": json.loads(plan.to_json()) | {"rounds": None, "units": None, "words": str(plan.averaging)},
        "exposed_s": exposed_s,
        # Last, because its rounds change the model.
        "sending_s": sending_seconds(geo, plan, accelerator) if share == SHARES[-1] else None,
    }
    geo.close()
    accelerator.free_memory()
    # Groups outlive their GeoSync, and each has a thread that wakes a hundred times a second: the last methods of all
    # would have trained beside dozens. Only once nobody has anything to say any more.
    accelerator.wait_for_everyone()
    geo._training.session.close()
    print("run done", flush=True)
    return record


def sending_seconds(geo: GeoSync, plan, accelerator: Accelerator) -> float:
    """Seconds from the start of a round of the whole model until this site's share has left, as its kernel counts."""
    from geo_accel.plan.averaging import Outer
    from geo_accel.plan.plan import Piece

    engine, interface, times = geo.engine, os.environ["GLOO_SOCKET_IFNAME"], []
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
        # Not `engine.step()`: there a plan spreads the model's pieces over a period.
        running = engine._rounds.start(
            pieces, averaging=plan.averaging, outer=Outer(), step=engine.step_count, delay=1
        )
        engine._rounds.apply(running)
        over.set()
        watcher.join()
        begin, before = seen[0]
        # The last hundredths are acknowledgements of what others sent.
        enough = before + 0.97 * (seen[-1][1] - before)
        times.append(next(at for at, count in seen if count >= enough) - begin)
    return median(times)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
