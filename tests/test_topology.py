# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from geo_accel.topology import build_topology, machine_label


def topology(labels, names=None, sites="auto", rank=0):
    return build_topology(rank, labels, names or [None] * len(labels), sites)


def test_sites_are_machines_in_order_of_their_lowest_rank():
    found = topology(["1", "1", "0", "0"], rank=3)
    assert [(site.name, site.ranks) for site in found.sites] == [("site0", (0, 1)), ("site1", (2, 3))]
    assert found.site.name == "site1" and found.local_index == 1


def test_names_win_over_machines():
    found = topology(["0", "0", "1"], names=["paris", "oslo", "paris"], rank=1)
    assert [(site.name, site.ranks) for site in found.sites] == [("paris", (0, 2)), ("oslo", (1,))]


def test_sizes_cut_the_ranks_in_order():
    assert [site.ranks for site in topology(["0"] * 5, sites=[2, 3]).sites] == [(0, 1), (2, 3, 4)]


@pytest.mark.parametrize("sizes", [[3], [1, 2], [4, 4]])
def test_sizes_that_do_not_make_the_ranks_are_refused(sizes):
    with pytest.raises(ValueError, match=rf"makes {sum(sizes)} ranks, but 4 were launched"):
        topology(["0"] * 4, sites=sizes)


def test_a_name_on_some_ranks_only_is_refused_with_the_ranks():
    with pytest.raises(ValueError, match=r"not on rank\(s\) 1, 3"):
        topology(["0"] * 4, names=["a", None, "b", ""])


def test_a_name_that_no_file_could_have_is_refused():
    with pytest.raises(ValueError, match=r"GEO_ACCEL_SITE is 'eu/paris': .* leave '/' out"):
        topology(["0"] * 2, names=["oslo", "eu/paris"])


def test_names_and_sizes_contradict():
    with pytest.raises(ValueError, match="contradicts GEO_ACCEL_SITE"):
        topology(["0"] * 2, names=["a", "b"], sites=[1, 1])


def test_equal_sites_split_the_work_and_unequal_sites_have_one_carrier():
    equal = topology(["0", "0", "1", "1"], rank=3)
    assert equal.slices == 2 and equal.carries and equal.peer_group(1) == (1, 3)
    unequal = topology(["0", "0", "1"], rank=1)
    assert unequal.slices == 1 and not unequal.carries and unequal.peer_group(0) == (0, 2)


def test_a_rank_is_a_site_and_a_place():
    mine = topology(["0"] * 3, rank=2, names=["oslo", "paris", "oslo"])
    assert mine.names == ("oslo", "paris") and mine.own_name == "oslo.1"
    assert [mine.place_of(rank) for rank in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(
    "environ, label",
    [
        ({"GROUP_RANK": "2", "RANK": "9"}, "2"),
        ({"NODE_RANK": "1", "RANK": "1", "LOCAL_WORLD_SIZE": "1"}, "1"),
        ({"RANK": "5", "LOCAL_WORLD_SIZE": "4"}, "1"),
        ({"RANK": "5"}, "5"),
        ({}, "0"),
    ],
)
def test_the_launcher_says_which_machine_this_is(environ, label):
    assert machine_label(environ) == label
