# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Accelerate's checkpoints on two sites of one rank, which share a machine and its launcher: `GEO_ACCEL_SITE` says who
is who. Two models, as a GAN has them, with a GeoSync each; one of them with two optimizers.

Started by `tests.workers.launch.run_workers`. Writes what came of each scenario into `rank-R.json` in --out. In
the last one the first site dies.
"""

import argparse
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from safetensors.torch import load_file
from torch import nn

from geo_accel import GeoSync, SiteLostError

CONFIG = {"sync": {"period": 2, "delay": 1}, "compression": {"codec": "bf16"}, "resilience": {"patience_s": 20}}
WIDTH = 6


class Seen:
    """A registered object, whose state is the site's own."""

    def __init__(self) -> None:
        self.inputs = torch.zeros(())

    def state_dict(self) -> dict:
        return {"inputs": self.inputs}

    def load_state_dict(self, state: dict) -> None:
        self.inputs = state["inputs"]


class Pair:
    """A run: two models that train by turns, the first with Muon for its matrix and AdamW for the rest."""

    def __init__(self, out: Path, early: Path | None = None) -> None:
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True, project_dir=str(out))
        first, second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.models = list(self.accelerator.prepare(first, second))
        optimizers = [
            torch.optim.Muon([first.weight], lr=0.02),
            torch.optim.AdamW([first.bias], lr=0.01),
            torch.optim.AdamW(second.parameters(), lr=0.01),
        ]
        self.optimizers = list(self.accelerator.prepare(*optimizers))
        self.scheduler = self.accelerator.prepare(torch.optim.lr_scheduler.StepLR(optimizers[1], 2, 0.5))
        self.seen = Seen()
        self.accelerator.register_for_checkpointing(self.seen)
        if early:
            self.accelerator.load_state(str(early))
        self.syncs = [
            GeoSync(accelerator=self.accelerator, model=model, optimizer=optimizer, config=CONFIG)
            for model, optimizer in zip(self.models, (self.optimizers[0], self.optimizers[2]), strict=True)
        ]

    def train(self, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(100 * step + dist.get_rank())
            inputs = torch.randn(4, WIDTH, generator=generator)
            self.seen.inputs = self.seen.inputs + inputs.sum()
            self.accelerator.backward(self.models[1](torch.relu(self.models[0](inputs))).square().mean())
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.scheduler.step()
            for sync in self.syncs:
                sync.step()

    def state(self) -> list[float]:
        """Numbers that tell two states of the site apart: weights, moments, rate, seen."""
        tensors = [parameter.detach() for model in self.models for parameter in model.parameters()]
        for optimizer in self.optimizers:
            for state in optimizer.optimizer.state.values():
                tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return [
            *(tensor.double().sum().item() for tensor in tensors),
            self.optimizers[1].param_groups[0]["lr"],
            self.seen.inputs.item(),
        ]

    def close(self) -> None:
        for sync in self.syncs:
            sync.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    PartialState(backend="gloo", cpu=True)
    rank = dist.get_rank()
    os.environ["GEO_ACCEL_SITE"] = "ab"[rank]
    record: dict = {}

    def note(name: str, scenario: Callable[[], object]) -> None:
        try:
            record[name] = scenario()
        except (ValueError, OSError, RuntimeError) as error:
            kind = next(kind for kind in (ValueError, OSError, RuntimeError) if isinstance(error, kind))
            record[name] = f"{kind.__name__}: {error}"
        (out / f"rank-{rank}.json").write_text(json.dumps(record))

    whole = Pair(out)
    own = dict(vars(whole.accelerator))
    whole.train(range(3))
    whole.accelerator.save_state(str(out / "step-3"))
    record["moments at 3"] = whole.state()
    whole.train(range(3, 7))
    record["whole"] = whole.state()
    note("save_model", lambda: saved_model(whole, out / "model"))
    note("full", lambda: with_a_full_disk(lambda: whole.accelerator.save_state(str(out / "full")), on=1))
    whole.close()
    record["given back"] = all(
        name in own or not callable(value) for name, value in vars(whole.accelerator).items() if name != "state"
    )
    resumed = Pair(out)
    resumed.accelerator.load_state(str(out / "step-3"))
    record["resumed at 3"] = resumed.state()
    resumed.train(range(3, 7))
    record["resumed"] = resumed.state()
    note("list", lambda: str(GeoSync(accelerator=resumed.accelerator, model=resumed.models, config=CONFIG)))
    note("early", lambda: str(Pair(out, early=out / "step-3")))
    for name in ("model_1.safetensors", "optimizer_1.bin", "random_states_1.pkl"):
        note(name, lambda name=name: with_damage(out / "step-3", name, resumed))
    lose_the_first_site(resumed, out, note)
    return 0


def saved_model(pair: Pair, folder: Path) -> bool:
    """Whether what is on disk is this site's model, as all agree on it."""
    pair.accelerator.save_model(pair.models[0], str(folder))
    dist.barrier()
    saved = load_file(folder / "model.safetensors")
    return all(torch.equal(saved[name], value) for name, value in pair.models[0].module.state_dict().items())


@contextmanager
def a_full_disk() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def with_a_full_disk(action: Callable[[], object], on: int) -> str:
    if dist.get_rank() != on:
        action()
    else:
        with a_full_disk():
            action()
    return "saved"


def with_damage(folder: Path, name: str, pair: Pair) -> str:
    path = folder / name
    data = path.read_bytes()
    dist.barrier()
    if dist.get_rank() == 0:
        path.write_bytes(data[: len(data) // 2])
    dist.barrier()
    try:
        pair.accelerator.load_state(str(folder))
    finally:
        dist.barrier()
        if dist.get_rank() == 0:
            path.write_bytes(data)
        dist.barrier()
    return "loaded"


def lose_the_first_site(pair: Pair, out: Path, note: Callable) -> None:
    """The survivor finds its disk full at first."""

    dist.barrier()
    if dist.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    folder = out / "survivor-b"
    with a_full_disk():
        try:
            with pair.syncs[0], pair.syncs[1]:
                pair.accelerator.save_state(str(out / "never"))
        except SiteLostError as error:
            lost = str(error)
    note("lost, disk full", lambda: [lost, folder.exists(), [path.name for path in out.glob("*.tmp")]])
    note("lost", pair.syncs[0].flush)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
