# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What rounds put on the wire, by the kernel's count, beside what the planner predicts.

Started by the lab, once per site: `python -m tests.workers.bytes_worker OUT CONFIG [CONFIG ...]`, each CONFIG a
geo_accel block as JSON with period, delay and codec stated. Writes `rank-R.json` into OUT, one entry per config.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from geo_accel.integrations.session import connect
from geo_accel.plan.cost import Cost
from geo_accel.plan.members import Members
from geo_accel.profile.profile import Profile, UnitProfile
from tests.workers.pace_worker import Weights

VALUES = 1_600_000
STEPS = 6


def bytes_sent(interface: str) -> int:
    """Bytes that have left `interface` of this process's network, headers included, as the kernel counts them."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == interface:
            return int(counts.split()[8])
    raise ValueError(f"the network interface {interface} was not found.")


def main() -> int:
    out, configs = Path(sys.argv[1]), [json.loads(text) for text in sys.argv[2:]]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    records = []
    for config in configs:
        model = Weights(VALUES)
        session = connect(config)
        engine = session.engine(model)
        engine.step()
        engine.settle()
        noise = torch.Generator().manual_seed(session.topology.rank)
        before = settled_count()
        for _ in range(STEPS):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.01)
            engine.step()
            engine.settle()
        sent = settled_count() - before
        plan, members = engine.plan, Members.of(session.topology)
        units = tuple(UnitProfile(name=name, numel=numel, backward_s=1.0) for name, numel in plan.units)
        cost = Cost.of(plan, Profile(units=units), members)
        records.append(
            {
                "codec": plan.codec,
                "exchange": plan.exchange,
                "sent": sent,
                "predicted": cost.nbytes(plan.values_per_period) * STEPS / plan.period,
            }
        )
        engine.close()
    out.mkdir(parents=True, exist_ok=True)
    (out / f"rank-{dist.get_rank()}.json").write_text(json.dumps(records))
    dist.barrier()
    dist.destroy_process_group()
    return 0


def settled_count() -> int:
    """The interface's count once nothing moves any more, on any site."""
    dist.barrier()
    time.sleep(0.3)
    return bytes_sent(os.environ["GLOO_SOCKET_IFNAME"])


if __name__ == "__main__":
    sys.exit(main())
