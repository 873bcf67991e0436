# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site: makes the runs of a batch one after another in one process, and writes each result when it is there.

Started once per site with the environment of a launcher; see `campaign`.
"""

import argparse
import gc
import json
import sys
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.local_sgd import LocalSGD
from torch import nn

from benchmarks.loss.material import Material
from benchmarks.loss.provenance import code_digest
from benchmarks.loss.results import save_result
from benchmarks.loss.setting import Setting
from benchmarks.loss.training import (
    Batches,
    evaluation_blocks,
    first_model,
    make_optimizer,
    make_scheduler,
    summed_loss,
)
from geo_accel import GeoSync
from geo_accel.profile.device import device_name

# Twice what guessing a byte costs: from there no run comes back.
_HOPELESS = 12.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--batch", type=Path, required=True, help="JSON: material, results, device, and definitions by key"
    )
    options = parser.parse_args(arguments)
    batch = json.loads(options.batch.read_text())
    torch.set_num_threads(1)
    # Where geo_accel would save the state of a site that lost the other.
    accelerator = Accelerator(
        cpu=batch["device"] == "cpu",
        project_dir=str(options.batch.parent),
        # All sites share one accelerator, which NCCL refuses.
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")],
    )
    material, results = Material.read(Path(batch["material"])), Path(batch["results"])
    code = code_digest()
    for key, run in batch["runs"].items():
        begin = perf_counter()
        try:
            result = train(run, material, accelerator)
        except ValueError as error:  # GeoSync's: every site refuses what one refuses
            result = {"refused": " ".join(str(error).split())}
        result |= {
            "run": run,
            "seconds": perf_counter() - begin,
            "code": code,
            "device": device_name(accelerator.device),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        if accelerator.is_main_process:
            save_result(results, key, result)
        accelerator.free_memory()
        gc.collect()
    accelerator.end_training()
    return 0


def train(run: dict, material: Material, accelerator: Accelerator) -> dict:
    """One run; returns its losses and bytes. Raises ValueError where geo_accel refuses the settings."""
    setting = Setting(**run["setting"])
    sites, site = accelerator.num_processes, accelerator.process_index
    bare = first_model(setting, run["seed"], material.start if run["task"] == "finetune" else None)
    kinds = tuple(run["kinds"])
    mine = (kinds[site],) if run["split"] == "own" else kinds
    batches = Batches(material.of("train", mine), setting, setting.batch, run["seed"], site)
    raw = make_optimizer(bare, setting, run["rate"])
    scheduler = make_scheduler(raw, setting, setting.steps)
    model, optimizer = accelerator.prepare(bare, raw)
    losses: list[float] = []
    diverged = False
    with _between_sites(run, accelerator, model, optimizer) as sync:
        for _ in range(setting.steps):
            tokens = batches.next().to(accelerator.device)
            loss = model(input_ids=tokens, labels=tokens).loss
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), setting.clip)
            # Before the update, so that no site ever holds or sends what is not finite.
            agreed = torch.stack([loss.detach(), norm.detach()])
            dist.all_reduce(agreed)
            losses.append(agreed[0].item() / sites)
            if not torch.isfinite(agreed).all() or losses[-1] > _HOPELESS:
                diverged = True
                break
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if sync is not None:
                sync.step()
        sent = _bytes_sent(run, sync, bare, len(losses), sites)
    held_out = evaluation_blocks(material.of("held_out", kinds), setting).to(accelerator.device)
    total = torch.tensor(summed_loss(bare, held_out[site::sites]), dtype=torch.float64)
    dist.all_reduce(total)
    _require_agreement(bare)
    loss = total.item() / len(held_out)
    diverged = diverged or not loss < _HOPELESS
    return {
        "loss": None if diverged else loss,
        "diverged": diverged,
        "losses": [round(one, 5) for one in losses[: -1 if diverged else None]],
        "bytes_per_step": sent / len(losses),
    }


def _between_sites(run: dict, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer):
    """What keeps the sites together, as a context manager; nothing for DDP, whose gradients do."""
    if run["method"] == "geo":
        return GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=run["config"])
    if run["method"] == "local_sgd":
        return LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=run["period"])
    return nullcontext()


def _bytes_sent(run: dict, sync: object, bare: nn.Module, steps: int, sites: int) -> float:
    """Bytes a site has sent in `steps` steps: geo_accel's own count, for the others what a ring all-reduce sends."""
    if run["method"] == "geo":
        return float(sync.engine.figures.wan_bytes)
    parameters = sum(parameter.numel() for parameter in bare.parameters())
    return 2 * (sites - 1) / sites * 4 * parameters * (steps // run["period"])


def _require_agreement(model: nn.Module) -> None:
    """Raises RuntimeError, on every site, unless all hold the same bits: otherwise they did not evaluate one model."""
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    top, low = flat.clone(), flat.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX)
    dist.all_reduce(low, dist.ReduceOp.MIN)
    if not torch.equal(top, low):
        raise RuntimeError("the sites do not hold the same model after their average.")


if __name__ == "__main__":
    sys.exit(main())
