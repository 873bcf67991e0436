# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Measures, on the run's own transport and masters, what a profile holds beside the layers' times."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from statistics import median
from time import perf_counter

import torch

from geo_accel.config import SPARSE_CHUNK, SPARSE_CODECS, LinkConfig
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.cost import bytes_per_value, exchange_for
from geo_accel.plan.plan import Piece
from geo_accel.profile.layers import Computing, as_profile
from geo_accel.profile.link import PROBE_SECONDS, Link, probe_links
from geo_accel.profile.profile import Handling, Profile, UnitProfile
from geo_accel.sync.masters import Masters, Selection
from geo_accel.sync.rounds import Rounds, agree
from geo_accel.topology import Topology
from geo_accel.transport.exchange import Scratch, Terms
from geo_accel.transport.store import ControlPlane

# A trial round has the size that rounds will have: a large model's do not fit into caches, a small one's do.
_TRIAL_SHARE = 1 / 8
_MOST_TRIAL_VALUES = 16_000_000
_TRIAL_BYTES = 512 * 1024
_SENDINGS = 3
_TRIALS = 5
_SHARE_TRIALS = 5
_BURN_S = 0.1
# A thread beside training takes half a core from it; more than twice that is a measurement gone wrong.
_MOST_LOST = 2.0
_CROSSING_S = 0.3
_MOST_KERNEL = 4.0


def measure_links(
    control: ControlPlane, rounds: Rounds, topology: Topology, config: LinkConfig
) -> tuple[tuple[str, Link], ...]:
    """Each site's link as it swaps with all others at once, or what the config states. Collective.

    With more than two sites both directions of each are measured too, one after the other: exchanges differ in what
    they ask of them. Raises SiteLostError for a site that does not answer.
    """
    stated = (config.bandwidth_mbps, config.latency_ms)
    if "auto" not in stated:
        return tuple((site.name, Link.of(mbps=stated[0], latency_ms=stated[1])) for site in topology.sites)

    others = len(topology.sites) - 1

    def exchange(nbytes: int) -> list[float]:
        seconds = control.gather("probing the link", rounds.time_transfer(-(-nbytes // others))[0])
        return [max(seconds[rank] for rank in site.ranks) for site in topology.sites]

    links = probe_links(exchange)
    if others > 1 and stated[0] == "auto":
        links = [
            replace(
                link,
                seconds_per_byte=_one_way(control, rounds, link, others, senders=site.ranks),
                down_seconds_per_byte=_one_way(control, rounds, link, others, receivers=site.ranks),
            )
            for site, link in zip(topology.sites, links, strict=True)
        ]
    return tuple((site.name, _as_stated(link, *stated)) for site, link in zip(topology.sites, links, strict=True))


def _one_way(control: ControlPlane, rounds: Rounds, link: Link, others: int, **ends: Collection[int]) -> float:
    """Seconds per byte between one site and all others at once, in one direction. Collective.

    `link` is that of the site as far as it is known, which tells how many bytes to send.
    """
    nbytes = max(1, int(PROBE_SECONDS / 2 / link.seconds_per_byte / others))
    # Whoever only sends is done when its last bytes are in the kernel: the receivers' time counts, the longest.
    taken = max(control.gather("probing one way", rounds.time_transfer(nbytes, **ends)[0]))
    return max((taken - link.latency_s) / (nbytes * others), 1e-12)


def measure_pairs(control: ControlPlane, rounds: Rounds, topology: Topology) -> tuple[tuple[str, str, Link], ...]:
    """The link of every pair of sites, one pair after the other, so that none disturbs another. Collective."""
    found = []
    for one, other in combinations(topology.sites, 2):
        involved = {*one.ranks, *other.ranks}

        def exchange(nbytes: int, involved: set[int] = involved) -> list[float]:
            return [max(control.gather("probing a pair", rounds.time_transfer(nbytes, involved, involved)[0]))]

        found.append((one.name, other.name, probe_links(exchange)[0]))
    return tuple(found)


def measure_handling(
    control: ControlPlane, rounds: Rounds, topology: Topology, codecs: Sequence[str]
) -> dict[str, Handling]:
    """What synchronising costs beside the transfers, by codec: the slowest rank's. Collective.

    Rounds are tried without a network and without effect on the weights. Where the background thread finds no core of
    its own, training loses what it takes, its share of sending and receiving included.
    """
    masters = rounds.masters
    length = max(length for _, length in masters.carried)
    unit = next(i for i, (_, numel) in enumerate(masters.carried) if numel == length)
    wanted = min(_MOST_TRIAL_VALUES, max(1, int(masters.size * _TRIAL_SHARE)))
    selection = masters.select([Piece(unit, 0, -(-length // wanted))])
    # Where ranks hold unlike shares of a unit, all try to send as much as they carry on average.
    values = torch.zeros(length // -(-length // wanted))
    copying = _least_time(lambda: _copy(masters, topology, selection), masters.device)
    copying *= values.numel() / max(values.numel(), selection.length)
    share = _share_lost(control, values) if masters.device.type == "cpu" else 0.0
    control.gather("measuring what sending costs", None)
    # Every site sends to all others: what counts is a byte that leaves, whoever it goes to.
    others = len(topology.sites) - 1
    sending = min(rounds.time_transfer(_TRIAL_BYTES // others)[1] for _ in range(_SENDINGS)) / _TRIAL_BYTES
    # What sending a byte takes from computing: nothing where an accelerator computes.
    lost = _lost_to_sending(control, rounds, others, share, sending) if masters.device.type == "cpu" else 0.0
    mine = {}
    for name in codecs:
        rule = _trial_rule(name, len(topology.sites))
        terms, anchor = Terms(averaging=rule, scratch=Scratch()), torch.zeros_like(values)

        def one_round(terms=terms, anchor=anchor) -> None:
            whole = [(0, values.numel())]
            agree(_Loopback(topology), terms, values, anchor, whole, lambda agreed, lo, hi: agreed, replaces=False)

        background = _least_time(one_round, torch.device("cpu")) if topology.carries else 0.0
        wan = lost * bytes_per_value(rule) * values.numel()
        mine[name] = [(copying + share * background + wan) / values.numel(), background / values.numel()]
    ranks = control.gather("measuring what rounds cost", mine)
    return {
        name: Handling(
            training_s=max(rank[name][0] for rank in ranks), background_s=max(rank[name][1] for rank in ranks)
        )
        for name in codecs
    }


def _trial_rule(codec: str, sites: int) -> Averaging:
    """What is tried for a codec; what a sparse one keeps hardly matters for the time that it takes."""
    if codec in SPARSE_CODECS:
        return Averaging(codec=codec, kept=(SPARSE_CHUNK // 20,) * sites)
    return Averaging(codec=codec, exchange=exchange_for(sites))


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
    return replace(
        link,
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


def _lost_to_sending(control: ControlPlane, rounds: Rounds, others: int, share: float, sending: float) -> float:
    """Seconds that computing loses per byte that is sent and received: `share` of the process's own, `sending`,
    and what the kernel takes, which handles packets in whatever process it interrupts. Collective.

    `others` is the number of sites that each sends to.

    Seen by how much computing slows down while bytes cross for real.
    """
    each = _TRIAL_BYTES // others
    speed = each / max(control.gather("timing a transfer", rounds.time_transfer(each)[0]))
    nbytes = max(1, int(speed * _CROSSING_S))
    seen = []
    for _ in range(_SENDINGS):
        control.gather("measuring what sending costs", None)
        quiet = _for_a_while()
        control.gather("measuring what sending costs", None)
        crossing = rounds.begin_transfer(nbytes)
        busy = _burn(lambda crossing=crossing: not crossing.done())
        seen.append(max(0.0, 1 - busy / quiet) * crossing.result()[0] / (nbytes * others))
    # Over a slow link few bytes cross, and what is seen is mostly noise: it is believed within reason.
    return min(max(share * sending, median(seen)), _MOST_KERNEL * sending)


def _for_a_while() -> float:
    end = perf_counter() + _BURN_S
    return _burn(lambda: perf_counter() < end)


def _burn(going_on: Callable[[], bool]) -> float:
    """Computes while `going_on()`; returns how often per second."""
    matrix, count, start = torch.ones(256, 256), 0, perf_counter()
    while going_on():
        matrix @ matrix
        count += 1
    return count / max(perf_counter() - start, 1e-9)


def _copy(masters: Masters, topology: Topology, selection: Selection) -> None:
    """A snapshot, and an application that adds zeros."""
    if topology.carries:
        masters.read(selection, torch.empty(selection.length, device=masters.device))
    masters.add(selection, torch.zeros(len(selection.rows), selection.length, device=masters.device))


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
    stop = threading.Event()

    def disturb() -> None:
        other = torch.zeros_like(values)
        while not stop.is_set():
            other.add_(values)

    # Sums, because a scheduler that puts three threads on one core and one on the other does so for a while: single
    # trials say anything from a quarter to three.
    all_quiet = all_busy = 0.0
    for _ in range(_SHARE_TRIALS):
        control.gather("measuring cores", None)
        quiet = _for_a_while()
        control.gather("measuring cores", None)
        stop.clear()
        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        busy = _for_a_while()
        stop.set()
        thread.join()
        all_quiet += quiet
        all_busy += busy
    return min(_MOST_LOST, max(0.0, all_quiet / max(all_busy, 1.0) - 1))
