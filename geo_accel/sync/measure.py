# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Measures, on the run's own transport and masters, what a profile holds beside the layers' times."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from statistics import median
from time import perf_counter

import torch

from geo_accel.config import CODECS, LinkConfig
from geo_accel.plan.plan import Piece
from geo_accel.profile.layers import Computing, as_profile
from geo_accel.profile.link import Link, probe_links
from geo_accel.profile.profile import Handling, Profile, UnitProfile
from geo_accel.sync.masters import PlainMasters, add, gather
from geo_accel.sync.outer import Mean
from geo_accel.sync.rounds import Rounds, agree
from geo_accel.topology import Topology
from geo_accel.transport.exchange import Scratch
from geo_accel.transport.store import ControlPlane
from geo_accel.wire.codec import get_codec

# A trial round has the size that rounds will have: a large model's do not fit into caches, a small one's do.
_TRIAL_SHARE = 1 / 8
_MOST_TRIAL_VALUES = 16_000_000
_TRIAL_BYTES = 512 * 1024
_SENDINGS = 3
_TRIALS = 5
_BURN_S = 0.1
_MOST_LOST = 3.0


def measure_links(
    control: ControlPlane, rounds: Rounds, topology: Topology, config: LinkConfig
) -> tuple[tuple[str, Link], ...]:
    """Each site's link as it swaps with all others at once, or what the config states. Collective.

    Raises SiteLostError for a site that does not answer.
    """
    stated = (config.bandwidth_mbps, config.latency_ms)
    if "auto" not in stated:
        return tuple((site.name, Link.of(mbps=stated[0], latency_ms=stated[1])) for site in topology.sites)

    def exchange(nbytes: int) -> list[float]:
        seconds = control.gather("probing the link", rounds.time_transfer(nbytes)[0])
        return [max(seconds[rank] for rank in site.ranks) for site in topology.sites]

    return tuple(
        (site.name, _as_stated(link, *stated))
        for site, link in zip(topology.sites, probe_links(exchange), strict=True)
    )


def measure_pairs(control: ControlPlane, rounds: Rounds, topology: Topology) -> tuple[tuple[str, str, Link], ...]:
    """The link of every pair of sites, one pair after the other, so that none disturbs another. Collective."""
    found = []
    for one, other in combinations(topology.sites, 2):
        involved = {*one.ranks, *other.ranks}

        def exchange(nbytes: int, involved: set[int] = involved) -> list[float]:
            partners = involved if topology.rank in involved else ()
            return [max(control.gather("probing a pair", rounds.time_transfer(nbytes, partners)[0]))]

        found.append((one.name, other.name, probe_links(exchange)[0]))
    return tuple(found)


def measure_handling(control: ControlPlane, rounds: Rounds, topology: Topology, exchange: str) -> dict[str, Handling]:
    """What synchronising costs beside the transfers, by codec: the slowest rank's. Collective.

    Rounds are tried without a network and without effect on the weights. Where the background thread finds no core of
    its own, training loses what it takes, its share of sending and receiving included.
    """
    masters = rounds.masters
    length = max(length for _, length in masters.carried)
    unit = next(i for i, (_, numel) in enumerate(masters.carried) if numel == length)
    wanted = min(_MOST_TRIAL_VALUES, max(1, int(masters.size * _TRIAL_SHARE)))
    pieces = [Piece(unit, 0, -(-length // wanted))]
    values = torch.zeros(sum(hi - lo for lo, hi in masters.ranges(pieces)))
    copying = _least_time(lambda: _copy(masters, topology, pieces, values), masters.device)
    share = _share_lost(control, values) if masters.device.type == "cpu" else 0.0
    control.gather("measuring what sending costs", None)
    sending = min(rounds.time_transfer(_TRIAL_BYTES)[1] for _ in range(_SENDINGS)) / _TRIAL_BYTES
    mine = {}
    for name in CODECS:
        anchor, scratch = torch.zeros_like(values), Scratch()

        def one_round(name=name, anchor=anchor, scratch=scratch) -> None:
            whole = [(0, values.numel())]
            agree(_Loopback(topology), exchange, name, values, anchor, whole, Mean(), scratch, replaces=False)

        background = _least_time(one_round, torch.device("cpu")) if topology.carries else 0.0
        wan = sending * get_codec(name).encoded_bytes(values.numel())
        mine[name] = [(copying + share * (background + wan)) / values.numel(), background / values.numel()]
    ranks = control.gather("measuring what rounds cost", mine)
    return {
        name: Handling(
            training_s=max(rank[name][0] for rank in ranks), background_s=max(rank[name][1] for rank in ranks)
        )
        for name in CODECS
    }


def assemble(
    control: ControlPlane,
    computing: Computing,
    links: Sequence[tuple[str, Link]],
    handling: Mapping[str, Handling],
    device: torch.device,
) -> Profile:
    """The run's profile: computing is the slowest rank's, which all others wait for. Collective."""
    ranks = control.gather("comparing step times", asdict(computing))
    slowest = max(ranks, key=lambda rank: rank["step_s"])
    computing = Computing(**{**slowest, "units": tuple(UnitProfile(**unit) for unit in slowest["units"])})
    return replace(as_profile(computing, device, ranks=len(ranks)), links=tuple(links), handling=handling)


def _as_stated(link: Link, mbps: float | str, latency_ms: float | str) -> Link:
    """What the config states counts, what it leaves open was measured."""
    return Link(
        latency_s=link.latency_s if latency_ms == "auto" else latency_ms * 1e-3,
        seconds_per_byte=link.seconds_per_byte if mbps == "auto" else 8e-6 / mbps,
    )


class _Loopback:
    """A transport whose peers all say what this rank says."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.peers = topology.peer_group(topology.local_index)

    def swap(self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor]) -> None:
        for peer, room in receives.items():
            payload = sends[peer][: room.numel()]
            room[: payload.numel()].copy_(payload)


def _copy(masters: PlainMasters, topology: Topology, pieces: list[Piece], values: torch.Tensor) -> None:
    """A snapshot, and an application that adds zeros."""
    slices = masters.all_runs(pieces)
    if topology.carries:
        gather(slices[topology.local_index], torch.empty(values.numel(), device=masters.device))
    add(slices, torch.zeros(topology.slices, values.numel(), device=masters.device))


def _least_time(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest trial: what disturbs one only makes it longer."""
    times = []
    for _ in range(_TRIALS):
        start = perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(perf_counter() - start)
    return min(times)


def _share_lost(control: ControlPlane, values: torch.Tensor) -> float:
    """By how much computing slows down while another thread of every rank works: 0 with cores to spare, 1 without.

    More than 1 where memory is the bottleneck. Collective, so that all ranks of a machine compute, and disturb, at the
    same time.
    """
    matrix, stop = torch.ones(256, 256), threading.Event()

    def burn() -> int:
        count, end = 0, perf_counter() + _BURN_S
        while perf_counter() < end:
            matrix @ matrix
            count += 1
        return count

    def disturb() -> None:
        other = torch.zeros_like(values)
        while not stop.is_set():
            other.add_(values)

    ratios = []
    for _ in range(_TRIALS):
        control.gather("measuring cores", None)
        quiet = burn()
        control.gather("measuring cores", None)
        stop.clear()
        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        busy = burn()
        stop.set()
        thread.join()
        ratios.append(quiet / max(busy, 1) - 1)
    return min(_MOST_LOST, max(0.0, median(ratios)))
