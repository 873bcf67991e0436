# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site in the emulated WAN: every method in one process, from the same weights.

Started by `python -m benchmarks.unequal` as `python -m benchmarks.unequal.worker MATERIAL FOLDER STEPS`. Writes
FOLDER/rank-SITE.json, and copies of the weights into FOLDER/METHOD-SITE.safetensors.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from transformers import get_constant_schedule_with_warmup

from benchmarks.loss.material import Material
from benchmarks.loss.setting import FULL
from benchmarks.loss.training import Batches, fresh_model, make_optimizer
from benchmarks.unequal.setting import GROUP, METHODS, POINTS, RATE
from geo_accel import GeoSync
from geo_accel.testing.bytes_worker import bytes_sent

_ROUNDS = 5


def main(material: Path, folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    start, results = Material.read(material), {}
    for place, (name, config) in enumerate(METHODS.items()):
        results[name], points = train(accelerator, start, config, steps)
        save_file(points, folder / f"{place}-{accelerator.process_index}.safetensors")
        accelerator.free_memory()
        print("method done", flush=True)
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(results))
    accelerator.end_training()


def train(accelerator: Accelerator, material: Material, config: dict | None, steps: int) -> tuple[dict, dict]:
    """One run; returns what was recorded, and the weights as one flat tensor by step."""
    site = accelerator.process_index
    bare = fresh_model(FULL, seed=0)
    with torch.no_grad():
        for key, parameter in bare.named_parameters():
            parameter.copy_(material.start[key])
    raw = make_optimizer(bare, FULL, RATE)
    # At a constant rate every point of a run is the end of a shorter one, so that curves can be compared in time.
    scheduler = get_constant_schedule_with_warmup(raw, FULL.warmup)
    batches = Batches(material.of("train", (GROUP.texts[site],)), FULL, FULL.batch, 0, site)
    geo, model, optimizer = None, bare, raw
    if config is not None:
        model, optimizer = accelerator.prepare(bare, raw)
        geo = GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=config)
    accelerator.wait_for_everyone()
    boundaries, points = [time.perf_counter()], {}
    for step in range(1, steps + 1):
        tokens = batches.next()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), FULL.clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if geo is not None:
            geo.step()
        boundaries.append(time.perf_counter())
        if step % (steps // POINTS) == 0:
            points[str(step)] = torch.cat([parameter.detach().flatten() for parameter in bare.parameters()])
    record: dict = {"boundaries": boundaries}
    if geo is not None:
        plan = geo.engine.plan
        record |= {
            "plan": json.loads(plan.to_json()) | {"rounds": None, "units": None, "words": str(plan.averaging)},
            "exposed_s": geo.engine.exposed_s,
            "sending_s": sending_seconds(geo, plan, accelerator),
        }
        geo.close()
    return record, points


def sending_seconds(geo: GeoSync, plan, accelerator: Accelerator) -> float:
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
