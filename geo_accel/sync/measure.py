# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Measures, on the run's own transport and masters, what a profile holds beside the layers' times."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import combinations, cycle, islice
from statistics import fmean, median
from time import perf_counter, thread_time
from typing import Any

import torch

from geo_accel.config import LinkConfig
from geo_accel.config.names import AUTO, SPARSE_CHUNK, SPARSE_CODECS, Auto
from geo_accel.masters import Masters
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.cost import bytes_per_value, exchange_for
from geo_accel.plan.partition import stream
from geo_accel.plan.plan import Piece
from geo_accel.profile.layers import Computing, as_profile
from geo_accel.profile.link import PROBE_SECONDS, Link, probe_links
from geo_accel.profile.profile import Handling, Profile, UnitProfile
from geo_accel.rounds.agreement import NotFiniteError, Snapshot, Weights, agree
from geo_accel.rounds.exchange import Scratch, Terms
from geo_accel.rounds.rounds import InPlace, in_place
from geo_accel.rounds.transfers import Transfers
from geo_accel.sync.contention import Contention
from geo_accel.topology import Topology
from geo_accel.transport.identity import Identity, Message
from geo_accel.transport.memory import Loopback

# A trial round has the size that rounds will have: a large model's do not fit into caches, a small one's do.
_TRIAL_PARTS = 8
_MOST_TRIAL_VALUES = 16_000_000
# Measuring holds up training: over the eight steps that are measured, this tries each of six codecs twice at least.
_TRIALS_AT_A_BOUNDARY = 2
# Probes of equal links differ by a tenth, and sites that are told unlike links are given unlike ratios.
_ALIKE = 1.15
_PROBES, _MOST_PROBES = 2, 5
_STILL_OPENING = 0.9
_PAIR_LATENCIES = 4
# Long enough to know a link to a few percent where four sites share two cores: ratios are made from it.
_ONE_WAY_S = 0.15
# A first moment that was over at once says nothing of how much fits into the time.
_MOST_GROWTH = 32


def stated_links(one_ways: int, topology: Topology, config: LinkConfig) -> tuple[tuple[str, Link], ...] | None:
    """Each site's link where the config states all of it, else None.

    The latency of a link is a swap's, which takes `one_ways` of what the config states, the line's.
    """
    mbps, latency_ms = config.bandwidth_mbps, config.latency_ms
    if mbps == AUTO or latency_ms == AUTO:
        return None
    link = Link.of(mbps=mbps, latency_ms=one_ways * latency_ms)
    return tuple((site.name, link) for site in topology.sites)


def measure_links(
    transfers: Transfers, topology: Topology, config: LinkConfig, latency: Sequence[float]
) -> tuple[tuple[str, Link], ...]:
    """Each site's link as it swaps with all others at once; what the config states counts. Collective.

    `latency` is what `transfers` has measured before. With more than two sites both directions of each link are
    measured too, one after the other: exchanges differ in what they ask of them. Raises SiteLostError for a site that
    does not answer.
    """
    mbps, latency_ms = config.bandwidth_mbps, config.latency_ms
    others = len(topology.sites) - 1

    def exchange(nbytes: int) -> Sequence[float]:
        return transfers.exchange(-(-nbytes // others))

    if mbps != AUTO:
        links = [Link(latency_s=one, seconds_per_byte=8e-6 / mbps) for one in latency]
    else:
        # With more sites this is only to open the windows, and to know how much to send one way.
        seconds = PROBE_SECONDS / 4 if others > 1 else PROBE_SECONDS
        links = probe_links(exchange, latency, seconds, transfers.have_lost)
    if others > 1 and mbps == AUTO:
        up, down = _one_way(transfers, topology, links)
        links = [
            replace(link, seconds_per_byte=out, down_seconds_per_byte=back)
            for link, out, back in zip(links, up, down, strict=True)
        ]
    return tuple(
        (site.name, _as_stated(transfers.one_ways, link, mbps, latency_ms))
        for site, link in zip(topology.sites, links, strict=True)
    )


def _one_way(transfers: Transfers, topology: Topology, links: Sequence[Link]) -> tuple[list[float], list[float]]:
    """Seconds per byte that leaves a site for all others at once, and per byte that comes to it, by site. Collective.

    `links` are those of the sites as far as they are known, which tells how many bytes to send.
    """
    sites, others = topology.sites, len(topology.sites) - 1

    def timed(sends: Mapping[int, int], receivers: Collection[int], link: Link, probes: int = _PROBES) -> float:
        # Whoever only sends is done when its last bytes are in the kernel: the receivers' time counts, the longest.
        # The quickest probe: a processor that was busy with something else only adds to it, and so does a window that
        # has shrunk while others sent.
        taken: list[float] = []
        while len(taken) < probes or (1 < len(taken) < _MOST_PROBES and taken[-1] < _STILL_OPENING * taken[-2]):
            taken.append(max(transfers.exchange(sends, receivers)))
        return max(min(taken) - link.latency_s, 1e-9)

    up = []
    for site, link in zip(sites, links, strict=True):
        rest = {rank for other in sites if other is not site for rank in other.ranks}
        # All at once were about as fast as the slowest. What this one sends alone in a moment tells how much it sends
        # in the time that is wanted: of a short transfer, the few milliseconds that a busy processor adds are a tenth.
        moment = max(_ONE_WAY_S / 8, link.latency_s / 2)
        few = max(1, int(moment / link.seconds_per_byte / others))
        growth = _ONE_WAY_S / timed(dict.fromkeys(site.ranks, few), rest, link, probes=1)
        nbytes = int(few * min(_MOST_GROWTH, max(1.0, growth)))
        up.append(timed(dict.fromkeys(site.ranks, nbytes), rest, link) / (nbytes * others))
    up = levelled(up)
    down = []
    for site, link in zip(sites, links, strict=True):
        # By their own links: in equal shares, the slowest of them would be all that is seen.
        rates = {other: 1 / seconds for other, seconds in zip(sites, up, strict=True) if other is not site}
        shares = {
            other: max(1, int(PROBE_SECONDS / 2 / link.seconds_per_byte * rate / sum(rates.values())))
            for other, rate in rates.items()
        }
        sends = {rank: nbytes for other, nbytes in shares.items() for rank in other.ranks}
        down.append(timed(sends, site.ranks, link) / sum(shares.values()))
    return up, levelled(down)


def levelled(measured: Sequence[float]) -> list[float]:
    """The same with values that differ by no more than a probe's error replaced by their mean.

    From the smallest on, a value joins those that it is within `_ALIKE` of the smallest of.
    """
    result, group = list(measured), []
    for place in sorted(range(len(measured)), key=measured.__getitem__):
        if group and measured[place] > _ALIKE * measured[group[0]]:
            group = []
        group.append(place)
        mean = fmean(measured[one] for one in group)
        for one in group:
            result[one] = mean
    return result


def measure_pairs(transfers: Transfers, topology: Topology) -> tuple[tuple[str, str, Link], ...]:
    """The link of every pair of sites, one pair after the other, so that none disturbs another. Collective."""
    found = []
    for one, other in combinations(topology.sites, 2):
        involved = {*one.ranks, *other.ranks}

        def exchange(nbytes: int, involved: set[int] = involved) -> list[float]:
            return [max(transfers.exchange(dict.fromkeys(involved, nbytes), involved))]

        latency = min(exchange(1)[0] for _ in range(_PAIR_LATENCIES))
        found.append((one.name, other.name, probe_links(exchange, [latency])[0]))
    return tuple(found)


class Rehearsal:
    """What handling a value costs this rank, from rounds without a network and without effect on the weights.

    They are tried between the steps that are measured anyway, because what a round costs depends on what training has
    left in the caches and on what the machine's other ranks do at the time: on an idle machine it is a third cheaper.
    """

    def __init__(self, masters: Masters, topology: Topology, codecs: Sequence[str]) -> None:
        self.sites = len(topology.sites)
        sizes = [length for _, length in masters.carried]
        pieces = list(filter(None, stream(sizes, max(_TRIAL_PARTS, -(-sum(sizes) // _MOST_TRIAL_VALUES)))))
        self._trials = {
            # Each on its own part of the model, because what one has touched is cheap for the next.
            codec: _Trial(masters, topology, pieces[number % len(pieces)], _trial_rule(codec, len(topology.sites)))
            for number, codec in enumerate(codecs)
        }
        self._turns = cycle(self._trials.values())

    @property
    def codecs(self) -> tuple[str, ...]:
        return tuple(self._trials)

    def once(self) -> None:
        """Training thread, at a boundary: the next codecs, in turn."""
        for trial in islice(self._turns, min(_TRIALS_AT_A_BOUNDARY, len(self._trials))):
            trial.once()

    def training_s(self, codec: str) -> float:
        """Of the training thread, per value."""
        return self._trials[codec].per_value(self._trials[codec].on_training)

    def background_s(self, codec: str) -> float:
        """Of the background thread, per value."""
        return self._trials[codec].per_value(self._trials[codec].in_background)


class _Trial:
    """One codec's rounds."""

    def __init__(self, masters: Masters, topology: Topology, pieces: tuple[Piece, ...], averaging: Averaging) -> None:
        self.on_training: list[float] = []
        """Seconds, by round."""
        self.in_background: list[float] = []
        self._masters, self._topology = masters, topology
        self._selection = masters.select(pieces)
        self._terms = Terms(averaging=averaging, scratch=Scratch(), message=Message(Identity(kind="probe")))
        self._anchor = torch.zeros(self._selection.length, dtype=torch.float32, device="cpu")

    def once(self) -> None:
        masters, selection, carries = self._masters, self._selection, self._topology.carries
        if carries and in_place(masters, self._topology, self._terms.averaging):
            before = torch.empty(selection.length, dtype=torch.float32, device="cpu")
            masters.read(selection, before)
            self.on_training.append(_processor_time(lambda: self._agree(InPlace(masters, selection))))
            masters.assign(selection, before.view(1, -1))
            return
        self.on_training.append(_processor_time(self._copy, masters.device))
        if carries:
            snapshot = Snapshot(torch.zeros(selection.length, dtype=torch.float32, device="cpu"))
            self.in_background.append(_processor_time(lambda: self._agree(snapshot)))

    def per_value(self, seconds: Sequence[float]) -> float:
        """0 on a rank that carries nothing."""
        length = self._selection.length
        return median(seconds) / length if seconds and length else 0.0

    def _copy(self) -> None:
        """A snapshot, and an application that adds zeros."""
        masters, selection = self._masters, self._selection
        if self._topology.carries:
            masters.read(selection, torch.empty(selection.length, dtype=torch.float32, device=masters.device))
        rows = len(selection.rows), selection.length
        masters.add(selection, torch.zeros(rows, dtype=torch.float32, device=masters.device))

    def _agree(self, weights: Weights) -> None:
        whole = [(0, self._selection.length)]
        transport = Loopback(self._topology)
        # Weights that are not finite are named by the first round that counts.
        with suppress(NotFiniteError):
            for _ in agree(transport, self._terms, weights, self._anchor, whole, None, replaces=False):
                pass


def measure_handling(rehearsal: Rehearsal, contention: Contention) -> dict[str, tuple[float, float]]:
    """What synchronising costs this rank beside the transfers, by codec: a `Handling`'s two figures.

    Where the background thread finds no core of its own, training loses what it takes, its share of sending and
    receiving included.
    """
    mine = {}
    for codec in rehearsal.codecs:
        background = rehearsal.background_s(codec)
        sending = contention.per_byte * bytes_per_value(_trial_rule(codec, rehearsal.sites))
        mine[codec] = (rehearsal.training_s(codec) + contention.share * background + sending, background)
    return mine


def _trial_rule(codec: str, sites: int) -> Averaging:
    """What is tried for a codec; what a sparse one keeps hardly matters for the time that it takes."""
    if codec in SPARSE_CODECS:
        return Averaging(codec=codec, kept=(SPARSE_CHUNK // 20,) * sites)
    return Averaging(codec=codec, exchange=exchange_for(sites))


def assemble(
    ranks: Sequence[tuple[Computing, Mapping[str, tuple[float, float]]]],
    links: Sequence[tuple[str, Link]],
    device: torch.device,
) -> Profile:
    """A run's profile from what its ranks have measured: the slowest one's, which all others wait for."""
    slowest = max((computing for computing, _ in ranks), key=lambda computing: computing.step_s)
    handling = {
        codec: Handling(
            training_s=max(mine[codec][0] for _, mine in ranks), background_s=max(mine[codec][1] for _, mine in ranks)
        )
        for codec in ranks[0][1]
    }
    return replace(as_profile(slowest, device, ranks=len(ranks)), links=tuple(links), handling=handling)


def as_message(computing: Computing, handling: Mapping[str, tuple[float, float]]) -> dict:
    """What one rank has measured, ready for JSON."""
    return {"computing": asdict(computing), "handling": dict(handling)}


def from_message(message: dict) -> tuple[Computing, dict[str, tuple[float, float]]]:
    computing: dict[str, Any] = {**message["computing"]}
    computing["units"] = tuple(UnitProfile(**unit) for unit in computing["units"])
    return Computing(**computing), message["handling"]


def _as_stated(one_ways: int, link: Link, mbps: float | Auto, latency_ms: float | Auto) -> Link:
    """What the config states counts, what it leaves open was measured."""
    return replace(
        link,
        latency_s=link.latency_s if latency_ms == AUTO else one_ways * latency_ms * 1e-3,
        seconds_per_byte=link.seconds_per_byte if mbps == AUTO else 8e-6 / mbps,
    )


def _processor_time(work: Callable[[], object], device: torch.device | None = None) -> float:
    """This thread's seconds on a processor for `work`, or on an accelerator those that pass until it is done."""
    clock = perf_counter if device is not None and device.type == "cuda" else thread_time
    if clock is perf_counter:
        torch.cuda.synchronize(device)
    start = clock()
    work()
    if clock is perf_counter:
        torch.cuda.synchronize(device)
    return clock() - start
