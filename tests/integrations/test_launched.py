# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Which ranks of a job may be one site. tests/sites/test_bad_input.py has real jobs that may not."""

import pytest

from geo_accel.config.schema import MeetConfig
from geo_accel.integrations.launched import refuse_mixture, require_known_ranks
from geo_accel.sites.invitation import invitation_of
from tests.transport.table import on_ranks, same_line
from tests.workers.launch import keys


def told(*sites):
    """What every rank hears, of which each has the key file of that site, or is invited to no meeting where None."""

    def work(rank, control):
        environ = {"GEO_ACCEL_MEET": "h:1", "GEO_ACCEL_KEYS": str(keys() / f"{sites[rank]}.pem")}
        return refuse_mixture(control, invitation_of(MeetConfig(), environ if sites[rank] else {}))

    return on_ranks(len(sites), work)


@pytest.mark.parametrize(
    "sites", [[None] * 3, ["site1"] * 3, ["site1", "nobody's", "site1"]], ids=["one job", "a site", "a key file lacks"]
)
def test_ranks_that_say_the_same(sites):
    """What is wrong with a key file is said where it is read."""
    assert told(*sites) == [None] * 3


def test_some_that_are_invited_and_some_that_are_not():
    line = same_line(told("site0", *[None] * 10))
    assert line.startswith(
        "GEO_ACCEL_MEET (or meet.at) is set on rank(s) 0 of this job, but not on rank(s) 1, 2, 3, 4, 5"
    )
    assert ", 8, ...: with a job per site every process has it" in line


def test_key_files_of_several_sites():
    line = same_line(told("site1", "site1", "site0", "site2"))
    assert line.startswith("this job of 4 processes spans the sites site1 (rank 0), site0 (rank 2), site2 (rank 3), ")


def test_a_process_that_takes_itself_for_all_of_its_site():
    for alone in ({}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "many"}):
        require_known_ranks(alone)
    with pytest.raises(
        ValueError, match="knows of no other, but WORLD_SIZE is 2: make the process group before GeoSync"
    ):
        require_known_ranks({"WORLD_SIZE": "2"})
