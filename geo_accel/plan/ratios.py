# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How much a sparse codec keeps, by bandwidth: spend time on the link that would be wasted on more data.

After BCRS (arXiv:2408.14736), which gives federated clients ratios by their bandwidth. Its text is known here from the
abstract and public summaries: what is marked (r) is a reconstruction. Ratios are integers, `kept` of every
`SPARSE_CHUNK` values, that rank 0 computes and the plan tells all sites. BCRS's other half, one ratio for all that
follows the window of the plan, is `choose_plan`'s: the most of `GRID` that hides. Its steps are what keeps ratios from
wavering with every new estimate of a link.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from geo_accel.config.names import SPARSE_CHUNK
from geo_accel.profile.link import Link

_FEWEST = 4


def _grid() -> tuple[int, ...]:
    steps = [_FEWEST]
    while steps[-1] * 3 // 2 < SPARSE_CHUNK:
        steps.append(steps[-1] * 3 // 2)  # rounded down, so that no step is longer than 1.5
    return (*steps, SPARSE_CHUNK)


GRID = _grid()
"""Ratios for all sites, as `kept` of 4096: from 4 (0.1 %), each at most 1.5 times the one before, to all."""


def per_site(links: Sequence[Link], least: int, values: float, chunk_bytes: Callable[[int], float]) -> tuple[int, ...]:
    """Every site's ratio, by its uplink: what it can send while the slowest sends `least`. BCRS as published (r).

    (r) With T_i = L_i + c V CR_i / B_i, the slowest site's T_b at the default ratio CR* is everyone's target:
    CR_i = clip((T_b - L_i) B_i / (c V), CR*, 1). Here the bytes are the codec's real ones, c V CR = chunks x
    chunk_bytes(kept), and the result is rounded down to a whole number, but not below `least`. So no upload takes
    longer than the slowest site's with `least`, and none that keeps less than all much less.

    Only for topologies where the further data is free: through a hub, or with uplinks much slower than downlinks, and
    within what the slowest downlink bears, which this does not look at (the planner's cost model does). Where sites
    send to each other, all wait for the fast sites' data on the slow site's downlink. Modelled, not measured, for 4
    sites of 25 M parameters, CR* = 1 %, three at 1000 Mbit/s and one at 100: letting the fast sites send 16 % turns
    0.38 s into 4.88 s with direct sends over symmetric links and 0.54 s into 4.98 s in a ring, and changes nothing
    through a hub (0.66 s) or in a star's uploads.

    Args:
        links: every site's uplink, by site.
        least: what the slowest site keeps of every 4096 values.
        values: elements that a site uploads.
        chunk_bytes: bytes of a chunk by what is kept of it; must not fall as that grows.

    Raises ValueError for no links, or numbers that cannot be.
    """
    if not links:
        raise ValueError("ratios per site need the link of at least one site.")
    for link in links:
        _check("a link's latency_s", link.latency_s)
        _check("a link's seconds_per_byte", link.seconds_per_byte)
    _check_kept("least", least)
    _check("values", values, above=0)
    chunks = values / SPARSE_CHUNK
    target_s = max(link.seconds(1, chunks * chunk_bytes(least)) for link in links)

    def most(link: Link) -> int:
        low, high = least, SPARSE_CHUNK
        while low < high:  # the largest that fits; `least` does, as far as anything does
            middle = (low + high + 1) // 2
            if link.seconds(1, chunks * chunk_bytes(middle)) <= target_s:
                low = middle
            else:
                high = middle - 1
        return low

    return tuple(most(link) for link in links)


def coefficients(kept: Sequence[int], shares: Sequence[float] | None, blend: float = 0.0) -> tuple[float, ...]:
    """What every site's contribution counts in the average; in all 1, to within rounding.

    f_i, the site's share of all data (equal where `shares` is None), or with `blend` alpha above 0 the reconstruction
    (r) of BCRS's adjusted coefficients: p_i = (1 - alpha) f_i + alpha CR_i / sum CR. Ratios as coefficients hurt where
    sites' data differ: on small byte-level transformers, 4 sites of unlike text and unequal ratios, the loss was 2.434
    with equal coefficients and 2.533 with coefficients by ratio. Hence 0 by default.

    All is computed in exact fractions and rounded once, so neither order nor the version of Python matters: every rank
    gets the same bits from the same `kept` and the same stated shares. Never pass what a rank has measured itself.

    Args:
        kept: every site's ratio, of 4096, by site.
        shares: data by site, in any unit such as tokens, not negative; None for equal.
        blend: alpha, 0 to 1.

    Raises ValueError for no sites, other numbers of shares than sites, or numbers that cannot be.
    """
    if not kept:
        raise ValueError("coefficients need the ratio of at least one site.")
    for one in kept:
        _check_kept("kept", one)
    _check("blend", blend)
    if blend > 1:
        raise ValueError(f"blend must be 0 to 1, not {blend!r}.")
    if shares is None:
        shares = [1] * len(kept)
    if len(shares) != len(kept):
        raise ValueError(f"there are {len(shares)} shares for {len(kept)} sites: state one for each.")
    for share in shares:
        _check("a share", share)
    data, retained = [Fraction(share) for share in shares], [Fraction(one) for one in kept]
    total, alpha = sum(data), Fraction(blend)
    if not total:
        raise ValueError("all shares are 0: at least one site must have data.")
    everything = sum(retained)
    return tuple(
        float((1 - alpha) * mine / total + alpha * ratio / everything)
        for mine, ratio in zip(data, retained, strict=True)
    )


def _check(what: str, number: float, above: float | None = None) -> None:
    if not math.isfinite(number) or number < 0 or (above is not None and number <= above):
        bound = "at least 0" if above is None else f"above {above:g}"
        raise ValueError(f"{what} must be a finite number {bound}, not {number!r}.")


def _check_kept(what: str, kept: int) -> None:
    if isinstance(kept, bool) or not isinstance(kept, int) or not 1 <= kept <= SPARSE_CHUNK:
        raise ValueError(f"{what} must be a whole number from 1 to {SPARSE_CHUNK}, not {kept!r}.")
