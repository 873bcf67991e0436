# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Engine scenarios without a training framework: a bare model whose weights the scenario moves itself.

`python -m geo_accel.testing.engine_worker OUT SCENARIO [SCENARIO ...]` on every rank; each scenario writes
`SCENARIO.rank-R.json` into OUT. A failed expectation between ranks shows there, the test compares.
"""

import json
import os
import random
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from geo_accel.integrations.session import Session, connect
from geo_accel.sync import checkpoint
from geo_accel.sync.engine import Engine


def build() -> nn.Module:
    """Three units of 7, 40 and 90 parameters (odd sizes, one larger than a share) and BatchNorm buffers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 9), nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), nn.Linear(6, 1))


def config(**sync: object) -> dict:
    codec = sync.pop("codec", "fp32")
    return {"sync": {"mode": "stream", "delay": 1, **sync}, "compression": {"codec": codec}}


def vector(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def nudge(model: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Moves all parameters by noise that depends on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def start(settings: dict, model: nn.Module) -> tuple[Session, Engine]:
    session = connect(settings)
    assert session is not None
    return session, session.engine(model)


def site_mean(session: Session, values: torch.Tensor) -> torch.Tensor:
    """Mean over sites of their first ranks' values, by a plain collective: the reference."""
    first = session.topology.local_index == 0
    total = values.clone() if first else torch.zeros_like(values)
    dist.all_reduce(total)
    return total / len(session.topology.sites)


def still_converges(settings: dict, steps: int) -> dict:
    """Weights that nobody moves: each site starts elsewhere, all must meet at the mean."""
    model = build()
    session, engine = start(settings, model)
    nudge(model, seed=1 + session.topology.site_index)
    wanted = site_mean(session, vector(model))
    distances = []
    for _ in range(steps):
        engine.step()
        distances.append((vector(model) - wanted).abs().max().item())
    engine.settle()
    settled = (vector(model) - wanted).abs().max().item()
    engine.flush()
    record = {"distances": distances, "settled": settled, "flushed": (vector(model) - wanted).abs().max().item()}
    record |= {"bits": vector(model).tolist(), "anchor": engine.anchor.tolist(), "bytes": engine.wan_bytes}
    engine.close()
    return record


def moving(settings: dict, steps: int) -> dict:
    """Sites that drift apart in every step, then flush: all must hold the mean of what they had."""
    model = build()
    session, engine = start(settings, model)
    drift = torch.zeros_like(vector(model))
    begin = vector(model)
    for step in range(steps):
        before = vector(model)
        nudge(model, seed=100 * step + session.topology.site_index, scale=0.1)
        drift += vector(model) - before
        engine.step()
    engine.settle()  # until then the background thread may be writing the anchor
    anchors_before = engine.anchor.clone()
    statistics = model[1][1].running_mean
    statistics.fill_(float(session.topology.site_index))
    engine.flush()
    record = {
        "bits": vector(model).tolist(),
        "anchors_before": anchors_before.tolist(),
        "error": (vector(model) - begin - site_mean(session, drift)).abs().max().item(),
        "bytes": engine.wan_bytes,
        "buffer": statistics.tolist(),
        "buffer_wanted": sum(range(len(session.topology.sites))) / len(session.topology.sites),
    }
    engine.close()
    return record


def random_life(out: Path, seed: int, runs: int) -> dict:
    """Random periods, schedules, codecs, flushes, saves and restarts; what each step started is in the traces."""
    chooser = random.Random(seed)  # the same on every rank
    lives = []
    for number in range(runs):
        period = chooser.randint(1, 7)
        settings = config(
            period=period,
            schedule=chooser.choice(["full", "equal", "stream"]),
            delay=chooser.randint(1, period),
            codec=chooser.choice(["fp32", "bf16"]),
            outer=chooser.choice(["mean", {"type": "nesterov", "lr": 0.7, "momentum": 0.5}]),
        )
        model = build()
        folder = out / f"life-{seed}-{number}"
        segments, step = [], 0
        for segment in range(3):  # two restarts from checkpoints
            os.environ["GEO_ACCEL_TRACE"] = str(folder / f"trace-{segment}")
            session, engine = start(settings, model)
            if segment:
                checkpoint.load(engine, folder / "saved")
            steps = chooser.randint(1, 2 * period + 2)
            for _ in range(steps):
                step += 1
                if chooser.random() < 0.8:  # else a skipped step: nothing moved, the boundary counts all the same
                    nudge(model, seed=1000 * step + session.topology.site_index, scale=0.01)
                engine.step()
                if chooser.random() < 0.2:
                    engine.flush()
            checkpoint.save(engine, folder / "saved", {"site": session.topology.site_index}, session.writes_site)
            engine.close()
            segments.append(steps)
            dist.barrier()
        lives.append({"period": period, "steps": segments, "bits": vector(model).tolist(), "folder": str(folder)})
    del os.environ["GEO_ACCEL_TRACE"]
    return {"lives": lives}


SCENARIOS = {
    "stream": lambda out: still_converges(config(period=4, delay=1), 12),
    "stream_late": lambda out: still_converges(config(period=4, delay=3), 14),
    "stream_bf16": lambda out: still_converges(config(period=3, codec="bf16"), 40),
    "blocking": lambda out: still_converges(config(mode="blocking", period=2, delay="auto"), 2),
    "moving": lambda out: moving(config(period=3), 10),
    "moving_bf16": lambda out: moving(config(period=3, codec="bf16"), 10),
    "moving_nesterov": lambda out: moving(
        config(period=3, outer={"type": "nesterov", "lr": 0.9, "momentum": 0.5}), 10
    ),
    "lives": lambda out: random_life(out, seed=7, runs=6),
}


def main() -> int:
    out, names = Path(sys.argv[1]), sys.argv[2:]
    out.mkdir(parents=True, exist_ok=True)
    dist.init_process_group("gloo")
    for name in names:
        record = SCENARIOS[name](out)
        (out / f"{name}.rank-{dist.get_rank()}.json").write_text(json.dumps(record))
    dist.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
