# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One site's training of a model that is known at every step, in the lab: `python -m tests.workers.job_worker`.

Every update adds `MOVE` to every weight, so that what crosses is known too. Prints "step N" after every step and at
the end one line of JSON. With --capture it writes all packets of its WAN interface to a file. With --meet-at NAME, the
site of that name trains nothing: it is the meeting point, until the others are done.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from geo_accel import GeoSync
from geo_accel.lab.sites import WAN_INTERFACE

MOVE = 0.125
CONFIG = {"sync": {"mode": "blocking", "period": 1}, "compression": {"codec": "fp32"}}
_ALL_PROTOCOLS = 0x0003


class Known(nn.Module):
    """Weights whose gradients are all the same."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(numel))

    def forward(self) -> torch.Tensor:
        return -self.weight.sum()


@contextlib.contextmanager
def capturing(path: Path | None) -> Generator[None]:
    """All that the site's interface sends and receives inside the block, headers included, to a file."""
    if path is None:
        yield
        return
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as tap,
        open(path, "wb") as out,
    ):
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 2**20)
        tap.bind((WAN_INTERFACE, 0))
        tap.settimeout(0.2)
        ends = threading.Event()

        def write() -> None:
            while not ends.is_set():
                with contextlib.suppress(TimeoutError):
                    out.write(tap.recv(2**16))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()


def meet(done: Path, others: int) -> int:
    """The meeting point, until `others` files are in the folder `done`."""
    where = os.environ["GEO_ACCEL_MEET"].removeprefix("listen:")
    command = ["meet", "--listen", where, "--keys", os.environ["GEO_ACCEL_KEYS"], "--expect", str(others)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GEO_ACCEL_")}
    point = subprocess.Popen([sys.executable, "-m", "geo_accel.commands.main", *command], env=environ)
    try:
        while len(list(done.iterdir())) < others and point.poll() is None:
            time.sleep(0.1)
    finally:
        point.send_signal(signal.SIGTERM)
    return point.wait(10)


def train(steps: int, numel: int) -> dict[str, object]:
    accelerator = Accelerator(cpu=True)
    model = Known(numel)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=MOVE))
    longest = 0.0
    with GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=CONFIG) as geo:
        for step in range(steps):
            start = time.monotonic()
            accelerator.backward(model())
            optimizer.step()
            optimizer.zero_grad()
            geo.step()
            longest = max(longest, time.monotonic() - start)
            print(f"step {step + 1} of {steps}", flush=True)
    weights = accelerator.unwrap_model(model).weight.detach()
    digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
    return {"digest": digest, "first": weights[0].item(), "longest_step_s": longest, "summary": geo.summary()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--numel", type=int, default=200_000)
    parser.add_argument("--capture", type=Path)
    parser.add_argument("--meet-at", default="")
    parser.add_argument("--done", type=Path, help="an empty folder that all sites share")
    options = parser.parse_args()
    site = os.environ.get("GEO_ACCEL_SITE", "")
    if site and site == options.meet_at:
        return meet(options.done, int(os.environ["GEO_ACCEL_EXPECT"]) - 1)
    if options.meet_at:
        os.environ["GEO_ACCEL_EXPECT"] = str(int(os.environ["GEO_ACCEL_EXPECT"]) - 1)
    with capturing(options.capture):
        found = train(options.steps, options.numel)
    if options.done:
        (options.done / site).touch()
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
