# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from geo_accel.config import SPARSE_CHUNK
from geo_accel.plan.ratios import GRID, coefficients, per_site
from geo_accel.profile.link import Link

LINK = Link.of(mbps=100, latency_ms=10)


def two_bytes(kept):
    """A 4-bit value with a 12-bit index."""
    return 2 * kept


def real(kept):
    """int4 values with scales; places as indices or, where that is less, as bits."""
    return -(-kept // 128) * 4 + -(-kept // 2) + min(-(-kept // 2) * 3, SPARSE_CHUNK // 8)


links = st.builds(Link.of, mbps=st.floats(1, 20_000), latency_ms=st.floats(0, 300))
sizes = st.integers(1, 10**8)
windows = st.floats(0, 60)
kepts = st.integers(1, SPARSE_CHUNK)
codecs = st.sampled_from([two_bytes, real, lambda kept: 7 + 5 * kept])


def seconds(kept, values, link, messages, payloads, chunk_bytes):
    return link.seconds(messages, payloads * (values / SPARSE_CHUNK) * chunk_bytes(kept))


def test_the_grid_goes_from_4_to_all_in_steps_of_at_most_a_half():
    assert GRID[0] == 4 and GRID[-1] == SPARSE_CHUNK == 4096
    assert all(before < after <= 1.5 * before for before, after in pairwise(GRID))
    assert len(GRID) < 20


# ---- per_site


def test_per_site_by_hand():
    # The slow site takes 0.01 + 100 * 2 * 41 / 12.5e6 s; ten times the bandwidth carries 410.
    fast = Link.of(mbps=1000, latency_ms=10)
    assert per_site([fast, LINK, fast], 41, 100 * 4096, two_bytes) == (410, 41, 410)
    # Who has no time left after its own latency is not below the least either.
    far = Link.of(mbps=10_000, latency_ms=300)
    assert per_site([fast, far], 41, 4096, two_bytes) == (4096, 41)


@given(st.lists(links, min_size=1, max_size=6), kepts, sizes, codecs)
def test_no_site_takes_longer_than_the_slowest_with_the_least(sites, least, values, chunk_bytes):
    kept = per_site(sites, least, values, chunk_bytes)
    target_s = max(seconds(least, values, link, 1, 1, chunk_bytes) for link in sites)
    assert len(kept) == len(sites) and all(least <= one <= SPARSE_CHUNK and isinstance(one, int) for one in kept)
    assert all(
        seconds(one, values, link, 1, 1, chunk_bytes) <= target_s for one, link in zip(kept, sites, strict=True)
    )


@given(st.lists(links, min_size=2, max_size=6), kepts, sizes, codecs)
def test_one_value_more_would_take_longer_than_the_slowest(sites, least, values, chunk_bytes):
    kept = per_site(sites, least, values, chunk_bytes)
    target_s = max(seconds(least, values, link, 1, 1, chunk_bytes) for link in sites)
    for one, link in zip(kept, sites, strict=True):
        assert one == SPARSE_CHUNK or seconds(one + 1, values, link, 1, 1, chunk_bytes) > target_s


@given(links, st.integers(1, 6), kepts, sizes)
def test_equal_sites_all_keep_the_least(link, sites, least, values):
    kept = per_site([link] * sites, least, values, two_bytes)
    assert kept == (least,) * sites


@given(st.lists(links, min_size=2, max_size=6), kepts, sizes, st.randoms(use_true_random=False))
def test_per_site_does_not_depend_on_the_order_of_sites(sites, least, values, random):
    order = random.sample(range(len(sites)), len(sites))
    kept = per_site(sites, least, values, real)
    assert per_site([sites[one] for one in order], least, values, real) == tuple(kept[one] for one in order)


# ---- coefficients


def test_coefficients_by_hand():
    assert coefficients([41, 410, 41], None) == (1 / 3,) * 3
    assert coefficients([41, 410], [1, 3]) == (0.25, 0.75)
    assert coefficients([100, 300], [1, 1], 1.0) == (0.25, 0.75)
    assert coefficients([100, 300], [3, 1], 0.5) == (0.5, 0.5)
    assert coefficients([100, 300], None, 0.5) == (0.375, 0.625)
    assert coefficients([5, 5], [0, 7]) == (0.0, 1.0)


shares_of = st.floats(0, allow_nan=False, allow_infinity=False)
sites_of = st.lists(st.tuples(kepts, shares_of), min_size=1, max_size=40)


@given(sites_of, st.floats(0, 1), st.booleans())
def test_coefficients_add_up_to_1_and_are_rounded_only_once(sites, blend, equal):
    kept, shares = zip(*sites, strict=True)
    assume(equal or any(shares))
    found = coefficients(kept, None if equal else shares, blend)
    assert len(found) == len(kept) and all(0 <= one <= 1 for one in found)
    assert math.fsum(found) == pytest.approx(1, abs=1e-12)
    data = [Fraction(1)] * len(kept) if equal else [Fraction(share) for share in shares]
    for ratio, share, one in zip(kept, data, found, strict=True):
        true = (1 - Fraction(blend)) * share / sum(data) + Fraction(blend) * Fraction(ratio, sum(kept))
        assert one == float(true)


@given(sites_of, st.floats(0, 1), st.randoms(use_true_random=False))
def test_coefficients_have_the_same_bits_in_any_order_of_sites(sites, blend, random):
    assume(any(share for _, share in sites))
    order = random.sample(range(len(sites)), len(sites))
    found = coefficients(*zip(*sites, strict=True), blend)
    other = coefficients(*zip(*(sites[one] for one in order), strict=True), blend)
    assert [one.hex() for one in other] == [found[one].hex() for one in order]


@given(sites_of)
def test_ratios_matter_only_with_blend(sites):
    kept, shares = zip(*sites, strict=True)
    assume(any(shares))
    assert coefficients(kept, shares) == coefficients([1] * len(kept), shares)


# ---- errors

ARGS = dict(window_s=1.0, values=4096, link=LINK, messages=1, payloads=1, chunk_bytes=two_bytes, dense_bytes=4)


@pytest.mark.parametrize(
    "args, word",
    [
        (([], 41, 4096), "at least one site"),
        (([LINK], 0, 4096), "least must be a whole number from 1 to 4096, not 0"),
        (([LINK], 4097, 4096), "least"),
        (([LINK], 41.0, 4096), "least"),
        (([LINK], 41, -1), "values"),
        (([LINK, Link(latency_s=0, seconds_per_byte=-1)], 41, 4096), "seconds_per_byte"),
    ],
)
def test_per_site_refuses(args, word):
    with pytest.raises(ValueError, match=word):
        per_site(*args, two_bytes)


@pytest.mark.parametrize(
    "args, word",
    [
        (([], None), "at least one site"),
        (([0], None), "kept must be"),
        (([1.5], None), "kept must be"),
        (([1, 2], [1]), "1 shares for 2 sites"),
        (([1, 2], [1, -1]), "a share"),
        (([1, 2], [1, math.inf]), "a share"),
        (([1, 2], [0, 0]), "all shares are 0"),
        (([1, 2], None, 1.1), "blend must be 0 to 1"),
        (([1, 2], None, -0.1), "blend"),
        (([1, 2], None, math.nan), "blend"),
    ],
)
def test_coefficients_refuse(args, word):
    with pytest.raises(ValueError, match=word):
        coefficients(*args)
