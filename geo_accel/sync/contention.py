# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What computing loses on CPUs to threads beside it: to work in the background, and to bytes that come and go."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time, thread_time

import torch

from geo_accel.profile.link import LONG_LATENCY_S, Link
from geo_accel.rounds.transfers import Transfers

_TRIALS = 2
_BURN_S = 0.1
"""Where two trials are made; one takes twice as long."""
_CROSSING_S = 0.2
_LONGEST_CROSSING_S = 3 * _CROSSING_S
_DISTURBING_VALUES = 512 * 1024
# A thread beside training takes half a core from it; more than twice that is a measurement gone wrong.
_MOST_LOST = 2.0
_MOST_KERNEL = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """Of the slowdown of computing, as this rank saw it."""

    share: float = 0.0
    """Seconds lost per second of background work: 0 with cores to spare, 1 without, more where memory is short."""
    per_byte: float = 0.0
    """Seconds lost per byte that leaves, and as many that come in."""


def measure_contention(
    transfers: Transfers, in_background: Callable[..., Future], link: Link, others: int
) -> Contention:
    """Computes alone, beside a working thread and beside a transfer to `others` other sites, in turns. Collective.

    `in_background(work, *arguments)` runs work on the thread that transfers. All ranks of a machine compute, and
    disturb, at the same time. `link` is the slowest site's; if it is right, and its window still open from measuring
    it, this takes a second. Raises SiteLostError for a site that does not answer.
    """
    nbytes = max(1, int(_CROSSING_S / link.seconds_per_byte / others))
    # Over a long line meeting and transferring take longer than computing.
    trials = 1 if link.latency_s >= LONG_LATENCY_S else _TRIALS
    burn_s = _BURN_S * _TRIALS / trials
    alone = beside = 0.0
    sending, lost = [], []
    for _ in range(trials):
        # Once: what follows takes equally long everywhere.
        in_background(transfers.meet).result()
        quiet = _for_a_while(burn_s)
        # Sums, because a scheduler that puts three threads on one core and one on the other does so for a while:
        # single trials say anything from a quarter to three.
        alone += quiet
        beside += _beside_a_thread(burn_s)
        crossing = _beside_a_transfer(in_background(transfers.transfer, nbytes))
        sending.append(crossing.processor_s / (nbytes * others))
        lost.append(max(0.0, 1 - crossing.speed / quiet) * crossing.seconds / (nbytes * others))
    share = min(_MOST_LOST, max(0.0, alone / max(beside, 1.0) - 1))
    # The kernel handles packets in whatever process it interrupts, so more is lost than the process's own part. Over a
    # slow link few bytes cross, and what is seen is mostly noise: it is believed within reason.
    own = min(sending)
    return Contention(share=share, per_byte=min(max(share * own, median(lost)), _MOST_KERNEL * own))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crossing:
    """A transfer beside computing."""

    speed: float
    """Of computing, in rounds per second."""
    seconds: float
    processor_s: float
    """Of this process beside its computing thread."""


def _beside_a_transfer(transfer: "Future[float]") -> _Crossing:
    process, thread = process_time(), thread_time()
    end = perf_counter() + _LONGEST_CROSSING_S
    # Where many processes share few cores, a scheduler has let some of them compute for seconds while others, whose
    # bytes they waited for, got nothing: then rather no more computing.
    speed = _burn(lambda: not transfer.done() and perf_counter() < end)
    seconds = transfer.result()
    own = (process_time() - process) - (thread_time() - thread)
    return _Crossing(speed=speed, seconds=seconds, processor_s=max(own, 1e-9))


def _beside_a_thread(seconds: float) -> float:
    stop = threading.Event()
    values = torch.zeros(_DISTURBING_VALUES, dtype=torch.float32, device="cpu")

    def disturb() -> None:
        other = torch.zeros_like(values)
        while not stop.is_set():
            other.add_(values)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    try:
        return _for_a_while(seconds)
    finally:
        stop.set()
        thread.join()


def _for_a_while(seconds: float) -> float:
    end = perf_counter() + seconds
    return _burn(lambda: perf_counter() < end)


def _burn(going_on: Callable[[], bool]) -> float:
    """Computes while `going_on()`; returns how often per second."""
    matrix, count, start = torch.ones(256, 256, dtype=torch.float32, device="cpu"), 0, perf_counter()
    while going_on():
        matrix @ matrix
        count += 1
    return count / max(perf_counter() - start, 1e-9)
