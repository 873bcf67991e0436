# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Engine scenarios without a training framework: a bare model whose weights the scenario moves itself.

`python -m tests.workers.engine_worker OUT SCENARIO [SCENARIO ...]` on every rank; each scenario writes
`SCENARIO.rank-R.json` into OUT. A failed expectation between ranks shows there, the test compares.
"""

import json
import os
import random
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from geo_accel.config.parts import Overlap
from geo_accel.integrations.session import connect
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.members import Members
from geo_accel.plan.request import Request
from geo_accel.profile.document import write_whole
from geo_accel.sync import checkpoint, flush
from geo_accel.transport import waiting
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.faulty import FaultyTransport
from geo_accel.units import find_units
from tests.workers.backward_scenarios import averaged_in_backward
from tests.workers.bare_model import build, config, nudge, site_mean, start, vector
from tests.workers.flush_scenarios import by_hand, refused, schedule_free, with_other_defaults
from tests.workers.pace_worker import Weights
from tests.workers.planning_scenarios import epochs, followed, losing, small_rounds
from tests.workers.quiet_scenarios import quiet
from tests.workers.several_runs import record_each


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
    record |= {"bits": vector(model).tolist(), "anchor": engine.anchor.tolist(), "bytes": engine.figures.wan_bytes}
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
        "bytes": engine.figures.wan_bytes,
        "buffer": statistics.tolist(),
        "buffer_wanted": sum(range(len(session.topology.sites))) / len(session.topology.sites),
    }
    engine.close()
    return record


def unequal_ratios(out: Path, steps: int) -> dict:
    """A plan of the user's own: sites that keep unlike shares, averaged by a hub; anchors' checksums on the way."""
    model = build()
    session = connect({"sync": {"schedule": "manual", "plan": str(out / "unequal.json")}})
    sites, rank = len(session.topology.sites), session.topology.rank
    if rank == 0:
        rule = Averaging(
            codec="topk",
            exchange="hub",
            hub=sites - 1,
            kept=tuple(100 + 700 * site for site in range(sites)),
            residual="buffer",
            overlap=Overlap.mean_of_senders(sites),
        )
        units = [(unit.name, -(-unit.numel // session.topology.slices)) for unit in find_units(model)]
        plan = choose_plan(Request(mode="stream", period=2, delay=1, codec="int8"), units, Members(sites))
        write_whole(out / "unequal.json", lambda file: file.write_text(replace(plan, averaging=rule).to_json()))
    engine = session.engine(model)
    seen = []
    for step in range(steps):
        nudge(model, seed=100 * step + session.topology.site_index, scale=0.1)
        engine.step()
        if step % 10 == 9:
            engine.settle()
            seen.append(zlib.crc32(engine.anchor.numpy()))
    engine.flush()
    record = {"anchors": seen, "bits": vector(model).tolist()}
    engine.close()
    return record


def broken(how: str) -> dict:
    """The first site's payloads arrive changed, or its weights are not finite: what each rank is told."""
    model = build()
    session = connect(config(period=1, codec="int8") | {"resilience": {"patience_s": 4}})
    session.transport = faulty = FaultyTransport(session.transport)
    engine = session.engine(model)
    engine.step()
    engine.settle()
    agreed = vector(model)
    if how == "damaged":
        faulty.damaged_from.update(session.topology.sites[0].ranks)
    elif session.topology.site_index == 0:
        with torch.no_grad():
            model[1][0].weight[2, 1] = float("nan")
    said = ""
    try:
        for _ in range(4):
            engine.step()
    except (SiteLostError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
    engine.close()
    return {"said": said, "moved": (vector(model) - agreed).nan_to_num().abs().max().item()}


def out_of_step(settings: dict) -> dict:
    """The second site is one step ahead when it flushes: what each rank is told, and that nothing moved."""
    model = build()
    session, engine = start(settings, model)
    for step in range(7 + (session.topology.site_index == 1)):
        nudge(model, seed=100 * step + session.topology.site_index, scale=0.1)
        if step < 7:
            engine.step()
    engine.settle()
    before, said = vector(model), ""
    try:
        if session.topology.site_index == 1:
            engine.step()
        engine.flush()
    except SiteLostError as error:
        said = f"{type(error).__name__}: {error}"
    engine.close()
    return {"said": said, "moved": (vector(model) - before).abs().max().item()}


def late(settings: dict) -> dict:
    """The second site stands still for a moment, after which the others say whom they wait for."""
    model = build()
    session, engine = start(settings, model)
    said: list[str] = []
    waiting.FIRST_S, waiting.logger.warning = 1.0, lambda text, *about: said.append(text % about)
    for step in range(6):
        if (session.topology.site_index, step) == (1, 4):
            time.sleep(3)
        engine.step()
    engine.close()
    return {"said": said}


def wishing(settings: dict, model: nn.Module, steps: int) -> dict:
    """A rank of the second site wishes to save before step 3, one of the first to stop before step 8: what all do.

    It is the last rank of its site, which may carry nothing.
    """
    session, optimizer = connect(settings), torch.optim.SGD(model.parameters(), lr=0.0)
    engine = session.engine(model, optimizer=optimizer)
    done = []
    for step in range(1, steps + 1):
        first, second, *_ = session.topology.sites
        if (session.topology.rank, step) == (second.ranks[-1], 3):
            engine.wishes.wish("save")
        if (session.topology.rank, step) == (first.ranks[-1], 8):
            engine.wishes.wish("stop")
        if isinstance(model, Weights):
            model(torch.ones(())).backward()
            time.sleep(0.01)
            optimizer.step()
        engine.step()
        done += [[step, what] for what in sorted(engine.wishes.take())]
    engine.flush()
    record = {"done": done, "bits": vector(model).tolist()}
    engine.close()
    return record


def lost_early(out: Path) -> dict:
    """A site dies while steps are measured: its own end, and for the others the step at which they are told."""
    torch.manual_seed(0)
    model = Weights(1000)
    session, engine = start({}, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    said, step = "", 0
    for step in range(1, 30):
        if (session.topology.site_index, step) == (1, 4):
            os._exit(9)
        model(torch.ones(())).backward()
        optimizer.step()
        time.sleep(0.05)
        try:
            engine.step()
        except SiteLostError as error:
            said = str(error)
            break
    (out / "lost_early.json").write_text(json.dumps({"said": said, "step": step}))
    os._exit(0)  # no barrier with the dead


def random_life(out: Path, seed: int, runs: int) -> dict:
    """Random periods, schedules, codecs, flushes, saves and restarts; what each step started is in the traces."""
    chooser = random.Random(seed)  # the same on every rank
    lives = []
    for number in range(runs):
        period = chooser.randint(1, 7)
        mode = chooser.choice(["stream", "backward"])
        settings = config(
            mode=mode,
            period=period,
            schedule=chooser.choice(["full", "equal", "stream"]),
            delay=chooser.randint(1, period) if mode == "stream" else "auto",
            codec=chooser.choice(["fp32", "bf16", "int8", "topk"]),
            compression={"ratio": 0.3, "residual": chooser.choice(["weights", "buffer"])},
            outer=chooser.choice(["mean", {"type": "nesterov", "lr": 0.7, "momentum": 0.5}]),
        )
        model = build()
        folder = out / f"life-{seed}-{number}"
        segments, step, begin = [], 0, None
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
                begin = begin or engine.adopted
                if chooser.random() < 0.2:
                    engine.flush()
            checkpoint.save(engine, folder / "saved", {"site": session.topology.site_index}, session.writes_site)
            engine.close()
            segments.append(steps)
            dist.barrier()
        lives.append(
            {
                "period": period,
                "begin": begin,
                "steps": segments,
                "bits": vector(model).tolist(),
                "folder": str(folder),
            }
        )
    del os.environ["GEO_ACCEL_TRACE"]
    return {"lives": lives}


SCENARIOS = {
    "stream": lambda out: still_converges(config(period=4, delay=1), 12),
    "stream_late": lambda out: still_converges(config(period=4, delay=3), 14),
    "stream_bf16": lambda out: still_converges(config(period=3, codec="bf16"), 40),
    "blocking": lambda out: still_converges(config(mode="blocking", period=2, delay="auto"), 2),
    "moving": lambda out: moving(config(period=3), 10),
    "moving_bf16": lambda out: moving(config(period=3, codec="bf16"), 10),
    "moving_int8": lambda out: moving(config(period=3, codec="int8"), 10),
    "moving_int2": lambda out: moving(config(period=3, codec="int2", exchange="hub"), 10),
    "moving_topk": lambda out: moving(
        config(period=3, codec="topk", compression={"ratio": 0.2, "residual": "weights", "overlap_weighting": False}),
        10,
    ),
    "moving_randk": lambda out: moving(
        config(period=3, codec="randk", compression={"ratio": 0.2, "residual": "weights", "overlap_weighting": False}),
        10,
    ),
    "moving_buffer": lambda out: moving(
        config(
            period=3,
            codec="topk",
            compression={"ratio": 0.2, "residual": "buffer", "overlap_weighting": {"threshold": 1, "gain": 1.5}},
        ),
        10,
    ),
    "quiet": lambda out: quiet(config(period=3, codec="int8"), 12),
    "quiet_nesterov": lambda out: quiet(
        config(period=2, codec="int4", outer={"type": "nesterov", "lr": 0.9, "momentum": 0.5}), 12
    ),
    "quiet_blocking": lambda out: quiet(config(mode="blocking", period=2, delay="auto"), 12),
    "quiet_topk": lambda out: quiet(
        config(
            period=3,
            codec="topk",
            compression={"ratio": 0.2, "residual": "buffer", "overlap_weighting": {"threshold": 1, "gain": 1.5}},
        ),
        12,
    ),
    "damped": lambda out: losing(chosen=True),
    "warned": lambda out: losing(chosen=False),
    "unequal": lambda out: unequal_ratios(out, 200),
    "damaged": lambda out: broken("damaged"),
    "not_finite": lambda out: broken("not finite"),
    "moving_nesterov": lambda out: moving(
        config(period=3, outer={"type": "nesterov", "lr": 0.9, "momentum": 0.5}), 10
    ),
    "backward": lambda out: averaged_in_backward(
        config(mode="backward", schedule="equal", period=3, delay="auto"), 12
    ),
    "backward_reentrant": lambda out: averaged_in_backward(
        config(mode="backward", schedule="full", period=2, delay="auto"), 8, reentrant=True
    ),
    "backward_measured": lambda out: averaged_in_backward(
        config(mode="backward", schedule="dreamddp", period=2, delay="auto"), 16
    ),
    "optimizer_in_backward": lambda out: averaged_in_backward(
        config(mode="backward", schedule="equal", period=3, delay="auto", optimizer_in_backward=True), 12
    ),
    "out_of_step": lambda out: out_of_step(config(period=3, codec="int8")),
    "out_of_step_hub": lambda out: out_of_step(config(period=3, codec="int8", exchange="hub")),
    "late": lambda out: late(config(period=2)),
    "wishing": lambda out: wishing(config(period=3, codec="int8"), build(), 16),
    "wishing_backward": lambda out: wishing(
        config(mode="backward", schedule="equal", period=3, delay="auto"), Weights(1000), 16
    ),
    "wishing_measured": lambda out: wishing({}, Weights(1000), 16),
    "lost_early": lost_early,
    "schedule_free": lambda out: schedule_free(),
    "by_hand": lambda out: by_hand(),
    "odd_weights": lambda out: refused("moved weights"),
    "odd_buffer": lambda out: refused("another buffer"),
    "other_defaults": lambda out: with_other_defaults(lambda: moving(config(period=3, codec="int8"), 10)),
    "followed": lambda out: followed(steps=130, change_at=40),
    "small_rounds": lambda out: small_rounds(steps=130, change_at=40),
    "epochs": lambda out: epochs(),
    "lives": lambda out: random_life(out, seed=7, runs=6),
}


def main() -> int:
    dist.init_process_group("gloo")
    # A flush takes several rounds, as it does with models that are no toys.
    flush.FLUSH_ELEMENTS = 50
    return record_each(SCENARIOS)


if __name__ == "__main__":
    sys.exit(main())
