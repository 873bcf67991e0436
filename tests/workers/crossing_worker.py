# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What crosses between sites in training steps, with all the ways in which models come wrapped.

`python -m tests.workers.crossing_worker OUT SCENARIO [SCENARIO ...]` on every rank; each scenario writes
`SCENARIO.rank-R.json` into OUT.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import TorchDynamoPlugin
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from geo_accel import GeoSync, SiteLostError, plug_into
from geo_accel.plan.slowing import Steps
from tests.workers.bytes_worker import settled_count
from tests.workers.models import build_data, build_model
from tests.workers.several_runs import record_each
from tests.workers.train_worker import fingerprint, world_collectives

CONFIG = {"sync": {"period": 2, "delay": 1, "outer": "mean"}, "compression": {"codec": "fp32"}}
STEPS = 6
LAYERS = 2  # most of the time goes into compiling them


def start(dynamo: str | None = None) -> Accelerator:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    torch.compiler.reset()
    torch.manual_seed(0)
    plugin = TorchDynamoPlugin(backend="eager", use_regional_compilation=dynamo == "regional") if dynamo else None
    return Accelerator(dynamo_plugin=plugin)


def batches(kind: str = "gpt2") -> list[dict[str, torch.Tensor]]:
    """Other ones on every rank."""
    data = build_data(kind, 2 * (STEPS + 1), seed=dist.get_rank())
    return [
        {key: torch.stack([one[key] for one in data[i : i + 2]]) for key in data[i]} for i in range(0, len(data), 2)
    ]


def counted(train: Callable[[dict], None], geos: list[GeoSync], model: nn.Module, kind: str = "gpt2") -> dict:
    """Runs `train` on every batch; counts from the second step on, when all is set up."""
    first, *rest = batches(kind)
    train(first)
    for geo in geos:
        geo.engine.settle()
    count, said, sent = settled_count(), sum(geo.engine.figures.wan_bytes for geo in geos), world_collectives()
    losses = []
    for batch in rest:
        losses.append(train(batch))
    for geo in geos:
        geo.engine.settle()
    crossed = world_collectives() - sent
    record = {
        "crossed": crossed,
        "kernel": settled_count() - count,
        "rounds": sum(geo.engine.figures.wan_bytes for geo in geos) - said,
        "units": [unit.name for unit in geos[0].engine.units],
        "own": fingerprint(model),
        "losses": losses,
    }
    for geo in geos:
        geo.flush()
        geo.close()
    return record | {"flushed": fingerprint(model)}


def compiled(dynamo: str | None, unwrapped: bool = False, bare: bool = False) -> dict:
    """A model as the launcher prepares it, which the user's script may have unwrapped before GeoSync sees it."""
    accelerator = start(dynamo)
    model = own = build_model("gpt2", layers=LAYERS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    if unwrapped:
        accelerator.unwrap_model(model)
    given = accelerator.unwrap_model(model) if bare else model
    geo = GeoSync(accelerator=accelerator, model=given, optimizer=optimizer, config=CONFIG)

    def train(batch: dict) -> float:
        loss = model(**batch)["loss"]
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        geo.step()
        return loss.item()

    return counted(train, [geo], own)


def adversaries(synchronised: int = 2, frozen: bool = False) -> dict:
    """Two models with an optimizer each, both prepared, of which so many have a GeoSync."""
    accelerator = start()
    models = [build_model("resnet"), build_model("resnet")]
    own = models[0]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    models, optimizers = zip(
        *(accelerator.prepare(*pair) for pair in zip(models, optimizers, strict=True)), strict=True
    )
    if frozen:
        models[1].requires_grad_(False)
    pairs = list(zip(models, optimizers, strict=True))
    geos = [GeoSync(accelerator=accelerator, model=m, optimizer=o, config=CONFIG) for m, o in pairs[:synchronised]]

    def train(batch: dict) -> float:
        losses = [model(**batch)["loss"] for model in models]
        accelerator.backward(sum(losses))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for geo in geos:
            geo.step()
        return losses[0].item()

    try:
        return counted(train, geos, own, kind="resnet")
    except ValueError as error:
        for geo in geos:
            geo.close()
        return {"said": str(error)}


def trainer(out: Path) -> dict:
    """Trainer with `torch_compile`."""
    start()
    counts: list[int] = []

    class Counter(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            counts.append(world_collectives())
            self.own = fingerprint(kwargs["model"])

    model, counter = build_model("gpt2", layers=LAYERS), Counter()
    arguments = TrainingArguments(
        output_dir=str(out / "trainer"),
        use_cpu=True,
        ddp_backend="gloo",
        torch_compile=True,
        torch_compile_backend="eager",
        max_steps=STEPS,
        per_device_train_batch_size=2,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    training = Trainer(model=model, args=arguments, train_dataset=build_data("gpt2", 64), callbacks=[counter])
    plug_into(training, CONFIG)
    training.train()
    for variable in [name for name in os.environ if name.startswith("ACCELERATE_DYNAMO_")]:
        del os.environ[variable]  # Trainer's way to tell Accelerate
    return {"crossed": counts[-1] - counts[0], "own": counter.own, "flushed": fingerprint(model)}


def gathering(out: Path, dies_at: int = 0) -> dict:
    """A script that gathers its loss over all ranks in every step, and has a model in DDP that nobody prepared."""
    accelerator, rank, said = start(), dist.get_rank(), []
    accelerator.project_configuration.project_dir = str(out)
    model = build_model("gpt2", layers=LAYERS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    other = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    listening = logging.Handler()
    listening.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("geo_accel").addHandler(listening)
    with GeoSync(accelerator=accelerator, model=model, optimizer=optimizer, config=CONFIG) as geo:
        for step in range(14):
            loss = model(**batches()[0])["loss"] + other(torch.ones(1, 2)).sum()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if rank == 1:
                time.sleep(0.1)
                if step == dies_at - 1:
                    os._exit(9)
            accelerator.gather(loss.detach())
            geo.step()
        record = {"exposed_s": geo.engine.figures.exposed_s, "efficiency": geo.metrics()["geo/efficiency"]}
        record |= {"computing_s": Steps.of(geo.engine.planning._steps).step_s, "said": said}
    return record


def losing(out: Path) -> dict:
    """The same, and the other site dies before such a gather."""
    try:
        gathering(out, dies_at=4)
    except SiteLostError as error:
        (out / "losing.rank-0.json").write_text(json.dumps({"said": str(error)}))
        os._exit(0)  # the connections that are left would make a tidy exit wait
    raise AssertionError("nobody was missed")


SCENARIOS = {
    "trainer": trainer,
    "gathering": gathering,
    "losing": losing,
    "plain": lambda out: compiled(None),
    "bare": lambda out: compiled(None, bare=True),
    "whole": lambda out: compiled("whole"),
    "whole_unwrapped": lambda out: compiled("whole", unwrapped=True),
    "regional": lambda out: compiled("regional"),
    "regional_unwrapped": lambda out: compiled("regional", unwrapped=True),
    "both": lambda out: adversaries(),
    "one": lambda out: adversaries(synchronised=1),
    "frozen": lambda out: adversaries(synchronised=1, frozen=True),
}


def main() -> int:
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    return record_each(SCENARIOS)


if __name__ == "__main__":
    sys.exit(main())
