# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from geo_accel.sync.comparison import compare, quick_checksum
from geo_accel.sync.rest import LACKING, Entry
from tests.transport.threads import alone_in_site, message, on_all_sites, payload_bytes


def verdicts(of_sites):
    """By site, what is found where each holds (names of entries, their fingerprints, checksum of weights)."""

    def work(transport):
        names, prints, weights = of_sites[transport.topology.rank]
        entries = [Entry(name=name, tensors=(torch.zeros(2),)) for name in names]
        told, inside = message(), alone_in_site(transport)
        verdict = compare(transport, inside, lambda s, r: transport.swap(s, r, told), entries, prints, weights)
        return verdict, payload_bytes(transport)

    return on_all_sites(len(of_sites), work)


def test_sites_that_are_alike_say_24_bytes():
    for verdict, sent in verdicts([(["a", "b"], [1, 2], 3)] * 3):
        assert not verdict.weights and not verdict.kinds and not any(verdict.odd) and sent == [2 * 24]


def test_all_sites_know_which_entries_differ_and_which_somebody_lacks():
    found = verdicts(
        [(["a", "b", "c"], [1, 2, 5], 3), (["a", "b", "c"], [1, 9, 5], 3), (["a", "b", "c"], [1, 2, LACKING], 3)]
    )
    for verdict, _ in found:
        assert verdict.odd == (False, True, True) and verdict.lacking == (False, False, True)
        assert not verdict.weights and not verdict.kinds


def test_weights_and_names_are_told_apart():
    assert all(verdict.weights and not verdict.kinds for verdict, _ in verdicts([(["a"], [1], 3), (["a"], [1], 4)]))
    for verdict, sent in verdicts([(["a"], [1], 3), (["a", "b"], [1, 2], 3)]):
        assert verdict.kinds and not any(verdict.odd) and sent == [24]  # lists of unlike lengths are never sent


@pytest.mark.parametrize("start", [0, 1, 22, 23])
@pytest.mark.parametrize("numel", [0, 1, 4095, 4096, 10_001])
def test_any_changed_value_changes_the_quick_checksum(numel, start):
    whole = torch.randn(start + numel, generator=torch.Generator().manual_seed(numel))
    values = whole[start:]
    before = quick_checksum(values)
    assert quick_checksum(whole.clone()[start:]) == before
    for place in {0, numel // 2, numel - 1} if numel else ():
        changed = whole.clone()[start:]
        changed[place] = torch.nextafter(changed[place], torch.tensor(9.0))
        assert quick_checksum(changed) != before
