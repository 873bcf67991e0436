# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""When a site's share of a round has left: by the kernel's count, whatever the transport says."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch.distributed as dist

from benchmarks.kit.methods import Trainee, bytes_sent
from geo_accel.plan.plan import Piece, Plan

# The last hundredths are acknowledgements of what others sent.
_ENOUGH = 0.97


def sending_seconds(rounds: int, one: Trainee, plan: Plan, folder: Path) -> float:
    """Seconds from the start of a round of the whole model until this site's share has left; the median of `rounds`.

    The rounds are as the `plan` has them, but with all of the model in one. Collective.
    """
    pieces = tuple(Piece(unit) for unit in range(len(plan.units)))
    whole = replace(plan, mode="stream", schedule="manual", period=1, delay=1, rounds=((pieces,),))
    file = folder / f"whole-{dist.get_rank()}.json"
    file.write_text(whole.to_json())
    times = []
    with one.geo(config={"sync": {"schedule": "manual", "plan": str(file)}}) as geo:
        geo.step()
        geo.engine.settle()
        for _ in range(rounds):
            dist.barrier()
            time.sleep(0.2)
            seen, over = [(time.perf_counter(), bytes_sent())], threading.Event()

            def watch(seen=seen, over=over) -> None:
                while not over.wait(0.002):
                    seen.append((time.perf_counter(), bytes_sent()))

            watcher = threading.Thread(target=watch)
            watcher.start()
            geo.step()
            geo.engine.settle()
            over.set()
            watcher.join()
            times.append(until(_ENOUGH, seen))
    return median(times)


def until(share: float, seen: list[tuple[float, int]]) -> float:
    """Seconds from the first of `seen`, times and counts, until `share` of what is counted in all has gone."""
    (begin, before), (_, last) = seen[0], seen[-1]
    return next(at for at, count in seen if count >= before + share * (last - before)) - begin
