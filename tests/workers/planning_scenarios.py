# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Plans that are made, followed, damped and kept; run by `engine_worker`."""

import threading
import time
from dataclasses import replace

import torch
import torch.distributed as dist

from geo_accel.config.parts import Outer
from geo_accel.integrations.session import Session, connect
from geo_accel.sync import flush, planning
from geo_accel.transport.faulty import FaultyTransport
from geo_accel.units import checksums
from tests.workers.bare_model import config, nudge, vector
from tests.workers.pace_worker import Weights

# A busy machine's latency, if measured, would make these small transfers say nothing about the link. Few bits would
# make them smaller still.
LINK = {"link": {"latency_ms": 0.1}, "compression": {"codec": "bf16"}, "sync": {"outer": "mean"}}


def free_rounds() -> None:
    """Rounds cost no computing, which ranks that share cores see very differently."""
    planning.measure_handling = lambda *_: {}

    def measure_contention(*_):
        time.sleep(0.3)  # as long as it takes: no work for rounds
        return planning.Contention()

    planning.measure_contention = measure_contention
    flush.FLUSH_ELEMENTS = 4 * 1024 * 1024  # by the worker's fifty at a time, models of this size take minutes


def slowed(session: Session) -> list[float]:
    """Makes swaps take as long as on a link of so many Mbit/s, which may be changed."""
    free_rounds()
    session.transport, mbps = FaultyTransport(session.transport), [200.0]
    session.transport.delay = lambda sent, received: sent * 8e-6 / mbps[0]
    return mbps


class Losing(Weights):
    """Returns a loss as Hugging Face's models do: steady at first, and 3 instead of 2 from the 50th on."""

    calls = 0

    def forward(self, probe: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"loss": super().forward(probe) * 0 + (2.0 if self.calls < 50 else 3.0) + 0.001 * (self.calls % 3)}


def losing(chosen: bool) -> dict:
    """An outer step under which the loss rises, `chosen` by us or fixed by the user."""
    torch.manual_seed(0)
    model = Losing(400)
    outer = Outer(lr=0.9, momentum=0.8)
    fixed = {"type": "nesterov", "lr": outer.lr, "momentum": outer.momentum}
    session = connect(config(period=2, codec="int8", outer="auto" if chosen else fixed))
    engine = session.engine(model)
    if chosen:  # as if the penalty table had said so
        engine.planning.reviewer.request = replace(engine.planning.request, outer=outer)
    warned: list[str] = []
    planning.logger.warning = warned.append
    for step in range(120):
        model(torch.ones(()))["loss"].backward()
        nudge(model, seed=10 * step + session.topology.site_index, scale=0.01)
        engine.step()
    engine.flush()
    record = {
        "outers": [[plan["step"], plan["reason"]] for plan in engine.summary()["plans"]],
        "now": [engine.plan.outer.lr, engine.plan.outer.momentum],
        "warned": warned,
        "bits": vector(model).tolist(),
    }
    engine.close()
    return record


def followed(steps: int, change_at: int) -> dict:
    """Plans over swaps that take as long as on a link of 200, later 40 Mbit/s; a step takes 10 ms.

    Everything is "auto" with two ranks. More may have to share cores, and then computing sets the period: there it is
    stated, and the model larger, so that transfers stay long enough to tell the link.
    """
    torch.manual_seed(0)
    alone = dist.get_world_size() == 2
    model = Weights(400_000 if alone else 800_000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    session = connect(LINK if alone else LINK | {"sync": {"period": 4, "outer": "mean"}})
    mbps = slowed(session)
    engine = session.engine(model, optimizer=optimizer)
    seen, saw_step = [], engine.planning.saw_step
    engine.planning.saw_step = lambda step: (seen.append(step), saw_step(step))
    nudge(model, seed=session.topology.site_index, scale=0.1)
    for step in range(1, steps + 1):
        if step == change_at:
            mbps[0] = 40.0
        model(torch.ones(())).backward()
        time.sleep(0.01)
        optimizer.step()
        engine.step()
    engine.flush()
    summary = engine.summary()
    record = {
        "plans": summary["plans"],
        "link_mbps": summary["link_mbps"],
        "bits": checksums(engine.units),
        "beside": [step.beside for step in seen],
        "most_between_s": max(step.between_s for step in seen),
    }
    engine.close()
    return record


def small_rounds(steps: int, change_at: int) -> dict:
    """The same, with rounds of a few kilobytes and steps of 30 ms."""
    torch.manual_seed(0)
    model = Weights(8_000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    session = connect(LINK)
    mbps, swapping = slowed(session), set()
    delay = session.transport.delay
    session.transport.delay = lambda *sizes: (swapping.add(threading.current_thread()), delay(*sizes))[1]
    engine = session.engine(model, optimizer=optimizer)
    seen = []
    for step in range(1, steps + 1):
        if step == change_at:
            mbps[0] = 40.0
        model(torch.ones(())).backward()
        time.sleep(0.03)
        optimizer.step()
        engine.step()
        seen.append(engine.planning.link.megabits_per_second if engine.planning.link is not None else None)
    engine.flush()
    record = {"before": seen[change_at - 2], "after": seen[-1], "exposed_s": engine.figures.exposed_s}
    record["in_training_thread"] = threading.current_thread() in swapping
    engine.close()
    return record


def epochs() -> dict:
    """An engine per epoch, everything "auto", and one beside another that is still running."""
    free_rounds()
    torch.manual_seed(0)
    model = Weights(8_000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sessions, planned, plans, held_up = [], [], [], []
    for _ in range(3):
        sessions.append(connect({"compression": {"codec": "int8"}}))
        engine = sessions[-1].engine(model, optimizer=optimizer)
        for step in range(14):
            model(torch.ones(())).backward()
            time.sleep(0.005)
            optimizer.step()
            engine.step()
            if engine.plan is not None and len(planned) < len(sessions):
                planned.append(step + 1)
        plans.append(engine.plan)
        held_up.append(engine.metrics()["geo/measuring_s"])
        if len(sessions) == 2:
            beside = connect({"compression": {"codec": "int8"}})
            engine.flush()
            engine.close()
            # The one beside is the last session now.
            sessions[-1] = beside
        else:
            engine.flush()
            engine.close()
    return {
        "planned": planned,
        "courses": all(plan.same_course(plans[0]) for plan in plans[1:2]),
        "reasons": [plan.reason for plan in plans],
        "held_up_s": held_up,
        "kept": sessions[1] is not sessions[0] and sessions[2] is sessions[1],
    }
