# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Who writes a checkpoint: one rank on every disk that a site has, whatever is shared with whom."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from geo_accel.integrations.disks import Disk, find_disk
from geo_accel.topology import Site, Topology
from tests.transport.table import on_ranks, same_line


def topology(sizes, rank=0):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    sites = tuple(
        Site(name=f"site{i}", ranks=tuple(range(end - size, end)))
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    )
    return Topology(sites=sites, rank=rank)


@given(st.data())
def test_every_disk_is_written_once_and_each_site_finds_its_own(data):
    """Ranks on disks in any way; with `each_machine` all disks count, else those of first ranks of sites."""
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    disks = data.draw(st.lists(st.integers(0, 2), min_size=sum(sizes), max_size=sum(sizes)))
    each = data.draw(st.booleans())
    found = []
    for rank, disk in enumerate(disks):
        seen = [other for other, theirs in enumerate(disks) if theirs == disk]
        found.append(Disk.of(topology(sizes, rank), seen, each))
    firsts = {site.ranks[0] for site in topology(sizes).sites}
    for disk in set(disks):
        here = [rank for rank, theirs in enumerate(disks) if theirs == disk]
        assert sum(found[rank].writes_whole for rank in here) == (1 if each or firsts & set(here) else 0)
        for site in topology(sizes).sites:
            of_site = [rank for rank in here if rank in site.ranks]
            assert sum(found[rank].writes_site for rank in of_site) == bool(of_site)
    assert found[0].writes_whole  # as in plain Trainer


def look(folders, each_machine=False, one_world=True):
    """What every rank finds; two sites of as many ranks as there are folders, halved."""
    halves = [len(folders) // 2] * 2

    def work(rank, control):
        session = SimpleNamespace(topology=topology(halves, rank), control=control, one_world=one_world)
        return find_disk(folders[rank], session, each_machine)

    return on_ranks(len(folders), work)


def test_disks_are_told_apart_by_looking(tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    assert [disk.writes_whole for disk in look([shared, shared])] == [True, False]
    assert [disk.writes_site for disk in look([shared, shared])] == [True, True]
    assert [disk.writes_whole for disk in look([shared, own])] == [True, True]
    four = look([shared, own, shared, shared], each_machine=True)
    assert [disk.writes_whole for disk in four] == [True, True, False, False]
    assert [disk.writes_site for disk in four] == [True, True, True, False]
    assert list(shared.iterdir()) == list(own.iterdir()) == []


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert [disk.writes_whole for disk in look([tmp_path / "fine", file])] == [True, True]


def test_jobs_that_share_a_folder_are_refused(tmp_path):
    line = same_line(look([tmp_path / "a", tmp_path / "a", tmp_path / "b", tmp_path / "a"], one_world=False))
    assert line.startswith(f"site0 and site1 share the folder {tmp_path}/a, and as jobs of their own would overwrite")
    halves = look([tmp_path / "a", tmp_path / "a", tmp_path / "b", tmp_path / "b"], one_world=False)
    assert [disk.writes_whole for disk in halves] == [True, False, True, False]
