# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from geo_accel.wire.overlap import add_up, weigh


def contributions(sites, numel, density, seed):
    """Sparse fp32 by site and what each sent."""
    generator = torch.Generator().manual_seed(seed)
    sent = [torch.rand(numel, generator=generator) < density for _ in range(sites)]
    drawn = [torch.randn(numel, generator=generator).round(decimals=1) for _ in range(sites)]
    return [torch.where(mask, value + (value == 0), 0.0) for value, mask in zip(drawn, sent, strict=True)], sent


def summed(values):
    total, count = torch.full_like(values[0], math.nan), torch.full_like(values[0], 77, dtype=torch.uint8)
    assert add_up(values, total, count) == len(values)
    return total, count


def contributor_mean(total, count, sites, scratch=None):
    return weigh(total, count, sites, threshold=sites, gain=math.inf, scratch=scratch)


cases = st.builds(
    contributions, st.integers(1, 8), st.integers(0, 50), st.sampled_from([0.01, 0.2, 0.5, 1.0]), st.integers(0, 2**32)
)
gains = st.one_of(st.floats(1, 20), st.just(math.inf))
thresholds = st.integers(0, 9)
scratches = st.one_of(st.none(), st.integers(2, 130).map(torch.empty))


def by_loop(values, sent, threshold, gain):
    """The formula, one fp32 number at a time."""
    sites, result = len(values), []
    for coordinate in range(len(values[0])):
        total, count = np.float32(0), 0
        for one, mask in zip(values, sent, strict=True):
            total += np.float32(one[coordinate].item())
            count += bool(mask[coordinate])
        mean = total / np.float32(sites)
        if 0 < count <= threshold:
            mean *= np.float32(min(gain, sites / count))
        result.append(mean)
    return torch.tensor(np.array(result, dtype=np.float32))


@given(cases, thresholds, gains, scratches)
def test_it_is_the_formula(case, threshold, gain, scratch):
    values, sent = case
    total, count = summed(values)
    found = weigh(total, count, len(values), threshold=threshold, gain=gain, scratch=scratch)
    assert found is total
    assert torch.equal(found, by_loop(values, sent, threshold, gain))


@given(cases)
def test_sums_and_counts(case):
    values, sent = case
    total, count = summed(values)
    expected = torch.zeros_like(values[0])
    for one in values:
        expected += one
    assert torch.equal(total, expected)
    assert count.tolist() == torch.stack(sent).sum(0).tolist()


def test_contributions_may_share_one_buffer():
    values, _ = contributions(4, 1000, 0.2, 0)
    buffer = torch.empty(1000)
    total, count = torch.empty(1000), torch.empty(1000, dtype=torch.uint8)
    add_up((buffer.copy_(one) for one in values), total, count)
    assert all(torch.equal(*pair) for pair in zip((total, count), summed(values), strict=True))


def test_the_order_of_sites_is_the_order_of_addition():
    # In fp32 1e8 + 1 is 1e8: any other order, or a sum by pairs, gives another result.
    values = [torch.tensor([one]) for one in (1e8, 1.0, -1e8, 1.0)]
    assert summed(values)[0].tolist() == [1.0]
    assert summed([values[0], values[2], values[1], values[3]])[0].tolist() == [2.0]


@given(cases, st.floats(1, 1e6))
def test_the_gain_is_clamped_to_the_mean_of_those_who_sent(case, gain):
    values, sent = case
    sites = len(values)
    total, count = summed(values)
    found = weigh(total, count, sites, threshold=sites, gain=gain)
    stacked, masks = torch.stack(values), torch.stack(sent)
    most = stacked.masked_fill(~masks, -math.inf).amax(0)
    least = stacked.masked_fill(~masks, math.inf).amin(0)
    anyone = masks.any(0)
    # Between 0 and the contributor mean: within what sites said, or nearer to 0 than that.
    assert bool((found <= most.clamp(min=0) + 1e-5)[anyone].all())
    assert bool((found >= least.clamp(max=0) - 1e-5)[anyone].all())


def test_the_gain_by_hand():
    # Counts 0, 1, 2, 3, 4 of 4 sites; a sum of 4 has the plain mean 1.
    total = torch.tensor([0.0, 4, 4, 4, 4])
    count = torch.tensor([0, 1, 2, 3, 4], dtype=torch.uint8)

    def weighed(threshold, gain):
        return weigh(total.clone(), count, 4, threshold=threshold, gain=gain).tolist()

    third = pytest.approx(4 / 3)
    assert weighed(4, 8.0) == weighed(4, math.inf) == [0, 4, 2, third, 1]
    assert weighed(4, 3.0) == [0, 3, 2, third, 1]
    assert weighed(4, 1.5) == [0, 1.5, 1.5, third, 1]
    assert weighed(2, 3.0) == [0, 3, 2, 1, 1]
    assert weighed(1, 3.0) == [0, 3, 1, 1, 1]
    assert weighed(0, 3.0) == weighed(4, 1.0) == [0, 1, 1, 1, 1]


@given(cases, thresholds, gains)
def test_what_nobody_sent_stays_exactly_0(case, threshold, gain):
    values, sent = case
    nobody = ~torch.stack(sent).any(0)
    assert not torch.any(weigh(*summed(values), len(values), threshold=threshold, gain=gain)[nobody])
    assert not torch.any(contributor_mean(*summed(values), len(values))[nobody])


@given(st.integers(1, 12), thresholds, gains, st.integers(0, 2**32))
def test_what_all_sent_has_the_plain_means_bits(sites, threshold, gain, seed):
    values, _ = contributions(sites, 50, 1.0, seed)
    total, count = summed(values)
    mean = total / sites
    assert torch.equal(contributor_mean(total.clone(), count, sites), mean)
    assert torch.equal(weigh(total, count, sites, threshold=threshold, gain=gain), mean)


@given(cases, thresholds, gains, st.integers(1, 20), st.integers(2, 30))
def test_chunks_of_any_size_give_the_same_bits(case, threshold, gain, size, scratch):
    values, _ = case
    kwargs = dict(threshold=threshold, gain=gain)
    whole = weigh(*summed(values), len(values), **kwargs)
    found = torch.empty_like(whole)
    for first in range(0, len(whole), size):
        part = slice(first, first + size)
        found[part] = weigh(
            *summed([one[part] for one in values]), len(values), **kwargs, scratch=torch.empty(scratch)
        )
    assert torch.equal(found, whole)


def test_lengths_beyond_a_piece_give_the_same_bits():
    values, _ = contributions(3, 100_001, 0.3, 1)
    found = weigh(*summed(values), 3, threshold=2, gain=2.0)
    assert torch.equal(found, weigh(*summed(values), 3, threshold=2, gain=2.0, scratch=torch.empty(2 * 100_001)))


@given(cases, scratches)
def test_the_limit_of_a_large_gain_is_the_mean_over_those_who_sent(case, scratch):
    values, sent = case
    sites = len(values)
    total, count = summed(values)
    expected = torch.stack(values).sum(0) / torch.stack(sent).sum(0).clamp(min=1)
    for gain in (float(sites), 1e30, math.inf):
        weighed = weigh(total.clone(), count, sites, threshold=sites, gain=gain, scratch=scratch)
        torch.testing.assert_close(weighed, expected)


def test_slices_of_a_larger_tensor_are_changed_in_place_and_nothing_else():
    values, _ = contributions(4, 100, 0.3, 2)
    total, count = summed(values)
    larger = torch.full((120,), 5.0)
    larger[10:110] = total
    weigh(larger[10:110], count, 4, threshold=4, gain=2.0)
    assert torch.equal(larger[10:110], weigh(total, count, 4, threshold=4, gain=2.0))
    assert torch.equal(larger[:10], torch.full((10,), 5.0)) and torch.equal(larger[110:], torch.full((10,), 5.0))


def allocated(call):
    """Bytes that operations of `call` allocate on the CPU in all."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    return sum(max(event.self_cpu_memory_usage, 0) for event in seen.events())


def test_buffers_that_are_passed_are_all_that_is_used():
    numel = 1 << 18
    values, _ = contributions(3, numel, 0.3, 3)
    total, count = summed(values)
    pattern, scratch = torch.empty(numel, dtype=torch.bool), torch.empty(numel)
    assert allocated(lambda: torch.ne(total, 0)) >= numel  # the measure sees an allocation
    assert allocated(lambda: add_up(values, total, count, pattern=pattern)) < 4096
    assert allocated(lambda: weigh(total, count, 3, threshold=3, gain=2.0, scratch=scratch)) < 4096


# ---- errors


def ones(numel=4, dtype=torch.float32):
    return torch.ones(numel, dtype=dtype)


COUNT = ones(dtype=torch.uint8)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"total": ones(dtype=torch.bfloat16)}, "total must be flat torch.float32"),
        ({"total": torch.ones(2, 2)}, "total must be flat"),
        ({"count": ones()}, "count must be flat torch.uint8 of 4 elements"),
        ({"count": ones(5, torch.uint8)}, r"not \(5,\)"),
        ({"count": COUNT * 3}, "counted 3 times, but there are 2 sites"),
        ({"sites": 0}, "sites must be"),
        ({"sites": 256}, "sites must be"),
        ({"sites": 2.0}, "sites must be"),
        ({"threshold": -1}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"gain": 0.99}, "gain must be at least 1, not 0.99"),
        ({"gain": math.nan}, "gain"),
        ({"scratch": ones(1)}, "scratch must be"),
        ({"scratch": ones(8, torch.float64)}, "scratch must be"),
    ],
)
def test_weigh_refuses_and_changes_nothing(change, word):
    args = {"total": ones(), "count": COUNT, "sites": 2, "threshold": 2, "gain": 2.0, **change}
    with pytest.raises(ValueError, match=word):
        weigh(**args)
    assert bool((args["total"] == 1).all())


@pytest.mark.parametrize(
    "values, word",
    [
        ([ones(), ones(3)], r"a contribution must be flat torch.float32 of 4 elements on cpu, not \(3,\)"),
        ([ones(dtype=torch.float64)], "a contribution"),
        ([ones()] * 256, "more than 255 sites"),
    ],
)
def test_add_up_refuses(values, word):
    with pytest.raises(ValueError, match=word):
        add_up(values, ones(), COUNT.clone())


def test_other_buffers_are_refused():
    with pytest.raises(ValueError, match="pattern must be"):
        add_up([ones()], ones(), COUNT.clone(), pattern=COUNT)
