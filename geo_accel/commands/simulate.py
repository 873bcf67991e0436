# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Predicts step time, traffic and cost of training over a WAN, by method, without running anything.

The model is a name, a config.json or a measured profile. Nothing is downloaded. An example:

  geo-accel simulate --model llama-2-7b --sites 4 --bandwidth-mbps 1000 --gpus-per-site 8 --flops 180e12
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from geo_accel.commands import curves
from geo_accel.commands.arguments import numbers
from geo_accel.commands.progress import watched
from geo_accel.plan.shapes import BYTES_BY_DTYPE, PRESETS, Workload, profile_of, read_shape, require_number
from geo_accel.plan.simulate import METHODS, Outcome, Scenario, expand, simulate
from geo_accel.profile.link import Link
from geo_accel.profile.profile import read_profile

NAME = "simulate"
SUMMARY = "predict step time, traffic and cost before renting"

_LATENCY_MS = 20.0
_BATCH, _SEQUENCE = 4, 2048
_PICTURES = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `geo-accel simulate`."""
    parser.usage = "geo-accel simulate (--model MODEL --flops F --bandwidth-mbps R | --profile PATH) [OPTIONS]"
    what = parser.add_argument_group("what is trained")
    what.add_argument("--model", help=f"{', '.join(PRESETS)}; or a GPT-2 or Llama config.json, or a folder with one")
    what.add_argument(
        "--profile", type=Path, metavar="PATH", help="a measured profile (file, or folder of bp.json and comm.json)"
    )
    what.add_argument("--batch", type=int, metavar="N", help=f"sequences per GPU and micro-batch (default: {_BATCH})")
    what.add_argument(
        "--sequence", type=int, metavar="N", help=f"tokens per sequence (default: {_SEQUENCE}, or the model's most)"
    )
    what.add_argument("--micro-batches", type=int, default=1, metavar="N", help="per step and GPU (default: 1)")
    what.add_argument(
        "--dtype",
        choices=list(BYTES_BY_DTYPE),
        default="bf16",
        help="of gradients, and of what methods without a codec in their name send (default: bf16)",
    )
    where = parser.add_argument_group("where")
    where.add_argument("--sites", type=int, metavar="N", help="number of sites (default: the profile's, or 2)")
    where.add_argument(
        "--bandwidth-mbps",
        type=numbers("1000,500"),
        metavar="R[,R...]",
        help="of a site's WAN link, in Mbit/s each way; one number for all sites or one per site",
    )
    where.add_argument(
        "--latency-ms",
        type=numbers("1000,500"),
        metavar="T[,T...]",
        help=f"one way, between sites; one number or one per site (default: {_LATENCY_MS:g})",
    )
    where.add_argument("--gpus-per-site", type=int, default=1, metavar="N", help="(default: 1)")
    where.add_argument(
        "--flops", type=float, metavar="F", help="FLOP/s that one GPU sustains, not its peak, as in 180e12"
    )
    where.add_argument(
        "--memory-gbps",
        type=float,
        metavar="B",
        help="memory bandwidth of a GPU in gigabytes per second, for the optimizer's update (default: 2000)",
    )
    where.add_argument(
        "--site-gbps",
        type=float,
        metavar="R",
        help="network inside a site, per GPU, in gigabits per second; gradients are reduced over it, not overlapped "
        "(default: takes no time)",
    )
    how = parser.add_argument_group("how, and what it costs")
    how.add_argument(
        "--period",
        type=_period,
        default=8,
        metavar="H",
        help="steps between synchronisations of a layer, or auto: each method gets the shortest it can afford "
        "(default: 8)",
    )
    how.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        metavar="M[,M...]",
        help=f"of stream, {', '.join(METHODS)} (default: all)",
    )
    how.add_argument("--gpu-hour", type=float, metavar="D", help="dollars for an hour of one GPU")
    how.add_argument("--gb", type=float, metavar="D", help="dollars for a gigabyte that leaves a site")
    how.add_argument("--json", action="store_true", help="print JSON in place of the table")
    how.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw efficiency over bandwidth and over the period"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the table or JSON, and draws the picture where one is wanted."""
    asked = _question(arguments)
    methods = expand(arguments.methods) if arguments.methods is not None else METHODS
    if arguments.plot is not None:
        _require_drawable(arguments.plot, asked.scenario)
    console = Console()
    jobs = [(asked.scenario, method) for method in methods]
    outcomes = [simulate(*job) for job in watched(jobs, "simulating")]
    if arguments.json:
        print(json.dumps({**asked.as_json(), "methods": [asdict(outcome) for outcome in outcomes]}, indent=1))
    else:
        console.print(str(asked), soft_wrap=True, highlight=False)
        console.print(_table(asked.scenario, outcomes))
    if arguments.plot is not None:
        curves.draw(arguments.plot, asked.scenario, asked.mbps, str(asked), methods)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """The scenario and what people call it."""

    scenario: Scenario
    model: str

    def as_json(self) -> dict:
        scenario, link = self.scenario, self.scenario.profile.link
        return {
            "model": self.model,
            "sites": scenario.sites,
            "gpus_per_site": scenario.gpus_per_site,
            "tokens_per_step": scenario.tokens_per_step,
            "compute_s": scenario.profile.compute_s,
            "slowest_link": None if link is None else {"mbps": self.mbps, "latency_ms": link.latency_s * 1e3},
        }

    @property
    def mbps(self) -> float:
        """Of the slowest site, all of its carriers together, where links are known."""
        link = self.scenario.profile.link
        assert link is not None
        return link.megabits_per_second * self.scenario.carriers

    def __str__(self) -> str:
        scenario, link = self.scenario, self.scenario.profile.link
        gpus = "" if scenario.gpus_per_site == 1 else f" of {scenario.gpus_per_site} GPUs"
        where = (
            "measured transfers" if link is None else f"slowest link {self.mbps:g} Mbit/s, {link.latency_s * 1e3:g} ms"
        )
        tokens = "" if scenario.tokens_per_step is None else f", {scenario.tokens_per_step:,} tokens per step"
        return f"{self.model} over {scenario.sites} sites{gpus}, {where}{tokens}"


def _question(arguments: argparse.Namespace) -> _Question:
    """What the arguments ask. Raises ValueError, in one line, where they make no sense."""
    if (arguments.model is None) == (arguments.profile is None):
        raise ValueError("give either --model or --profile, as in --model llama-2-7b.")
    if arguments.model is None:
        return _from_profile(arguments)
    for name in ("flops", "bandwidth_mbps"):
        if getattr(arguments, name) is None:
            example = {"flops": "180e12, what one GPU sustains", "bandwidth_mbps": "1000, a site's link"}[name]
            raise ValueError(f"--model needs --{name.replace('_', '-')} too, as in {example}.")
    for name in ("memory_gbps", "site_gbps"):
        if getattr(arguments, name) is not None:
            require_number(f"--{name.replace('_', '-')}", getattr(arguments, name), 1e-3, 1e9)
    shape = read_shape(arguments.model)
    work = Workload(
        flops=arguments.flops,
        batch=_BATCH if arguments.batch is None else arguments.batch,
        sequence=min(_SEQUENCE, shape.longest or _SEQUENCE) if arguments.sequence is None else arguments.sequence,
        micro_batches=arguments.micro_batches,
        gpus_per_site=arguments.gpus_per_site,
        dtype=arguments.dtype,
        **{} if arguments.memory_gbps is None else {"memory_bytes_per_s": arguments.memory_gbps * 1e9},
        site_bits_per_s=None if arguments.site_gbps is None else arguments.site_gbps * 1e9,
    )
    sites = 2 if arguments.sites is None else arguments.sites
    links = _links(arguments, sites)
    scenario = Scenario(
        profile=profile_of(shape, work),
        sites=sites,
        period=arguments.period,
        codec=arguments.dtype,
        gpus_per_site=arguments.gpus_per_site,
        tokens_per_step=work.tokens_per_site * sites,
        gpu_hour=arguments.gpu_hour,
        gb=arguments.gb,
    )
    return _Question(scenario=scenario.over(links), model=arguments.model)


def _from_profile(arguments: argparse.Namespace) -> _Question:
    """A profile is of one rank: with several GPUs in a site, each carries so much over the site's link."""
    for name in ("flops", "memory_gbps", "site_gbps"):
        if getattr(arguments, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for --model; a profile holds measured times: leave it out."
            )
    if arguments.latency_ms is not None and arguments.bandwidth_mbps is None:
        raise ValueError("--latency-ms replaces the profile's links: give --bandwidth-mbps too.")
    profile = read_profile(arguments.profile)
    knows_times = profile.link is not None or any(unit.transfer_s is not None for unit in profile.units)
    if arguments.bandwidth_mbps is None and not knows_times:
        raise ValueError(
            f"{arguments.profile}: the profile knows neither links nor transfer times: give --bandwidth-mbps."
        )
    sites = arguments.sites if arguments.sites is not None else max(2, len(profile.links))
    tokens = None
    if arguments.batch is not None and arguments.sequence is not None:
        tokens = sites
        for name in ("batch", "sequence", "micro_batches", "gpus_per_site"):
            require_number(name.replace("_", "-"), getattr(arguments, name), 1, 10**7, whole=True)
            tokens *= getattr(arguments, name)
    links = None if arguments.bandwidth_mbps is None else _links(arguments, sites)
    scenario = Scenario(
        profile=profile,
        sites=sites,
        period=arguments.period,
        codec=arguments.dtype,
        carriers=arguments.gpus_per_site,
        gpus_per_site=arguments.gpus_per_site,
        tokens_per_step=tokens,
        gpu_hour=arguments.gpu_hour,
        gb=arguments.gb,
    )
    return _Question(scenario=scenario if links is None else scenario.over(links), model=arguments.profile.name)


def _links(arguments: argparse.Namespace, sites: int) -> list[Link]:
    """One per site. Raises ValueError for a wrong count or number."""
    require_number("sites", sites, 2, 10**6, whole=True)
    columns = []
    for flag, values, least, most in (
        ("--bandwidth-mbps", arguments.bandwidth_mbps, 1e-3, 1e9),
        ("--latency-ms", arguments.latency_ms or [_LATENCY_MS], 0.0, 1e6),
    ):
        if len(values) not in (1, sites):
            raise ValueError(f"{flag}: {len(values)} numbers for {sites} sites; give one, or one per site.")
        for value in values:
            require_number(flag, value, least, most)
        columns.append(values * sites if len(values) == 1 else values)
    return [Link.of(mbps=mbps, latency_ms=ms) for mbps, ms in zip(*columns, strict=True)]


def _table(scenario: Scenario, outcomes: Sequence[Outcome]) -> Table:
    """Fits into 80 columns; what else is known is in the JSON."""
    columns = {
        "method": [outcome.method for outcome in outcomes],
        "H": ["" if outcome.period is None else str(outcome.period) for outcome in outcomes],
        "codec": [outcome.codec or "" for outcome in outcomes],
        "step s": [_short(outcome.step_s) for outcome in outcomes],
        "efficiency": [f"{outcome.efficiency:.3f}" for outcome in outcomes],
    }
    caption = "efficiency: step time without WAN over step time with it"
    if scenario.knows_sizes:
        columns["sent"] = [_bytes(outcome.wan_bytes_per_step or 0.0) for outcome in outcomes]
        caption += "; sent: by each site, per step"
    if scenario.tokens_per_step is not None:
        columns["tokens/s"] = [f"{outcome.tokens_per_s:,.0f}" for outcome in outcomes]
    if any(outcome.dollars_per_million_tokens is not None for outcome in outcomes):
        columns["$/M tokens"] = [_short(outcome.dollars_per_million_tokens or 0.0) for outcome in outcomes]
        parts = [name for name, price in (("GPUs", scenario.gpu_hour), ("egress", scenario.gb)) if price is not None]
        caption += f"; $: {' and '.join(parts)}"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption, caption_justify="left")
    for heading in columns:
        table.add_column(heading, justify="left" if heading in ("method", "codec") else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _short(value: float) -> str:
    """Three digits at least, no exponent."""
    if value >= 100 or value < 1e-9:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 1e-4 else "<0.0001"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            return "0" if count == 0 else f"{_short(count)} {unit}"
        count /= 1000
    raise AssertionError


def _require_drawable(path: Path, scenario: Scenario) -> None:
    """Raises ValueError, before anything is computed, where no picture could be drawn."""
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib, which is not installed: pip install 'geo-accel[report]'.")
    if path.suffix.lower() not in _PICTURES:
        raise ValueError(f"--plot {path}: the file's name must end in one of {', '.join(_PICTURES)}.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--plot {path}: the folder does not exist.")
    if not scenario.knows_sizes:
        raise ValueError("--plot: the profile has transfer times but no sizes: nothing is known of other bandwidths.")
    if scenario.profile.link is None:
        raise ValueError(
            "--plot: the profile knows no link, whose latency the curves keep: give --bandwidth-mbps too."
        )


def _period(text: str) -> int | str:
    try:
        return "auto" if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} given; it is a whole number of steps, or auto") from None
