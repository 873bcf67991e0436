# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Measures a model's layers on this machine and, under a launcher, the links between its sites.

Alone it times forward, backward and update of every layer. Started on every site (by torchrun, accelerate launch or
geo-accel lab) it also measures each site's link over the transport that training uses. Two emulated sites:

  geo-accel lab --bandwidth-mbps 100 -- geo-accel profile --model gpt2 --batch 1 --sequence 64 --output profile.json
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from geo_accel.config.names import AUTOMATIC_CODECS
from geo_accel.plan.shapes import PRESETS
from geo_accel.profile.device import DEVICES, choose_device
from geo_accel.profile.document import write_whole
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "profile"
SUMMARY = "measure a model's layers and the links between sites"
_DTYPES = ("float32", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `geo-accel profile`."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help=f"a causal language model, its weights fresh: {', '.join(PRESETS)}, a folder with a config.json, or a "
        "name on the hub",
    )
    parser.add_argument(
        "--config-overrides", default="", metavar="K=V,...", help="numbers of its config to change, as n_layer=2"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="examples per micro-batch (default: 1)")
    parser.add_argument("--sequence", type=int, default=128, metavar="N", help="tokens per example (default: 128)")
    parser.add_argument("--micro-batches", type=int, default=1, metavar="N", help="per optimizer step (default: 1)")
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="of weights and computing")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: an accelerator where there is one")
    parser.add_argument("--pairs", action="store_true", help="measure the link of every pair of sites too")
    parser.add_argument("--config", metavar="FILE", help="the geo_accel block: sites, link, deadlines")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the profile, which plan and simulate read")
    parser.add_argument("--json", action="store_true", help="print the profile on standard output, and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Measures and shows; returns 0. Raises ValueError for a model or a size that cannot be."""
    for name in ("batch", "sequence", "micro_batches"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {getattr(arguments, name)}; allowed: 1 or more")
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise ValueError(f"--output {arguments.output}: the folder does not exist")
    import torch.distributed as dist

    from geo_accel.integrations.session import already_joined

    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched:
        dist.init_process_group("gloo")
    try:
        profile = _measure(arguments)
        joined = already_joined()
        rank = int(os.environ.get("RANK", "0")) if joined is None else joined.topology.rank
        if rank == 0:
            _show(profile, arguments)
    finally:
        if launched:
            dist.destroy_process_group()
    return 0


def _measure(arguments: argparse.Namespace) -> Profile:
    """Collective where there are several processes."""
    import torch
    import torch.distributed as dist

    from geo_accel.integrations.session import connect, of_jobs
    from geo_accel.masters import PlainMasters
    from geo_accel.profile.layers import STEPS, Computing, LayerTimer, as_profile
    from geo_accel.profile.trace import Trace
    from geo_accel.rounds.rounds import Rounds
    from geo_accel.sync.contention import Contention, measure_contention
    from geo_accel.sync.measure import (
        Rehearsal,
        as_message,
        assemble,
        from_message,
        measure_handling,
        measure_pairs,
    )
    from geo_accel.sync.probing import Probing
    from geo_accel.units import find_units

    device = choose_device(arguments.device)
    # pyrefly: ignore[missing-argument] (transformers' wrapper of `to` forgets that it is a method)
    model = _build_model(arguments).to(device=device, dtype=getattr(torch, arguments.dtype)).train()
    units = find_units(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    shape = (arguments.batch, arguments.sequence)
    tokens = torch.randint(model.config.vocab_size, shape, device=device)
    session = connect(arguments.config) if dist.is_initialized() else of_jobs(arguments.config)
    facts = {"model": arguments.model, "config_overrides": arguments.config_overrides, "dtype": arguments.dtype}

    def trained(carried: dict[str, int], rehearsal: Rehearsal | None = None) -> Computing:
        """What some steps take, between which codecs are rehearsed."""
        timer = LayerTimer(model, units, optimizer)
        for _ in track(range(STEPS), "training", console=Console(stderr=True), transient=True):
            timer.start_step()
            for _ in range(arguments.micro_batches):
                model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            timer.end_step()
            if rehearsal is not None:
                rehearsal.once()
        timer.remove()
        return timer.result(carried)

    if session is None:
        return as_profile(trained({unit.name: unit.numel for unit in units}), device, ranks=1, **facts)
    topology = session.topology
    rounds = Rounds(PlainMasters(units, topology), session.transport, session.inside, Trace(None, 0, ""))
    # One after the other, so that neither disturbs the other: first the links, then the layers.
    links = Probing(rounds, topology, session.config.link).finish()
    contention = Contention()
    if device.type == "cpu":
        slowest = Link.slowest([link for _, link in links])
        contention = measure_contention(rounds.transfers, rounds.in_background, slowest, len(topology.sites) - 1)
    pairs = rounds.in_background(measure_pairs, rounds.transfers, topology).result() if arguments.pairs else ()
    rehearsal = Rehearsal(rounds.masters, topology, AUTOMATIC_CODECS)
    computing = trained(dict(rounds.masters.carried), rehearsal)
    mine = as_message(computing, measure_handling(rehearsal, contention))
    profile = assemble(list(map(from_message, session.control.gather("comparing", mine))), links, device)
    rounds.close()
    return replace(profile, pairs=pairs, provenance={**profile.provenance, **facts})


def _build_model(arguments: argparse.Namespace) -> "PreTrainedModel":
    """A causal language model with fresh weights; ValueError for one that cannot be had."""
    from transformers import AutoConfig, AutoModelForCausalLM

    overrides = {}
    for setting in filter(None, arguments.config_overrides.split(",")):
        key, _, value = setting.partition("=")
        try:
            overrides[key.strip()] = int(value)
        except ValueError:
            raise ValueError(f"--config-overrides: {setting!r} is no KEY=NUMBER") from None
    if arguments.model in PRESETS:
        kind = "gpt2" if arguments.model.startswith("gpt2") else "llama"
        config = AutoConfig.for_model(kind, **PRESETS[arguments.model])
    else:
        try:
            config = AutoConfig.from_pretrained(arguments.model)
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"--model {arguments.model}: its config cannot be had ({reason})") from None
    unknown = next((key for key in overrides if not hasattr(config, key)), None)
    if unknown is not None:
        raise ValueError(f"--config-overrides: {type(config).__name__} has no {unknown}")
    for key, value in overrides.items():
        setattr(config, key, value)
    config.use_cache = False
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and arguments.sequence > longest:
        raise ValueError(f"--sequence: got {arguments.sequence}; {arguments.model} takes at most {longest} tokens")
    try:
        return AutoModelForCausalLM.from_config(config)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"--model {arguments.model}: no causal language model comes of it ({error})") from None


def _show(profile: Profile, arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        write_whole(arguments.output, lambda file: file.write_text(f"{profile.to_json()}\n"))
    if arguments.json:
        print(profile.to_json())
        return
    console = Console()
    table = Table(title=f"layers, in the order of their gradients: {arguments.model}", title_justify="left")
    for heading in ("layer", "values", "forward ms", "backward ms", "update ms"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for unit in profile.units:
        table.add_row(
            unit.name,
            f"{unit.numel:,}",
            *(f"{seconds * 1e3:.3f}" for seconds in (unit.forward_s, unit.backward_s, unit.update_s)),
        )
    console.print(table)
    console.print(f"a step: {profile.compute_s:.3f} s, of which backward {profile.backward_s:.3f} s", highlight=False)
    for site, link in profile.links:
        console.print(f"{site} with all others: {_words(link)}", highlight=False)
    for one, other, link in profile.pairs:
        console.print(f"{one} with {other}: {_words(link)}", highlight=False)
    if not profile.links:
        console.print("no links: this is one site. Start it on every site to measure them.", highlight=False)
    if arguments.output is not None:
        console.print(f"written: {arguments.output}", highlight=False, markup=False)


def _words(link: Link) -> str:
    return f"{link.megabits_per_second:.1f} Mbit/s, {link.latency_s * 1e3:.2f} ms"
