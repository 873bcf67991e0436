# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a site is told of the meeting, by its config and its environment."""

import pytest

from geo_accel.config import load_config
from geo_accel.sites.invitation import invitation_of

KEYS = {"GEO_ACCEL_KEYS": "a.pem"}


def told(environ, **meet):
    return invitation_of(load_config({"meet": meet}).meet, environ)


@pytest.mark.parametrize(
    "where, at, hosts",
    [
        ("listen:29400", ("", 29400), True),
        ("listen:10.0.0.1:29400", ("10.0.0.1", 29400), True),
        ("listen:[::]:29400", ("::", 29400), True),
        ("a.example.org:29400", ("a.example.org", 29400), False),
        ("[2001:db8::1]:29400", ("2001:db8::1", 29400), False),
    ],
)
def test_where_sites_meet(where, at, hosts):
    for invitation in (told(KEYS | {"GEO_ACCEL_MEET": where}), told({}, at=where, keys="a.pem")):
        assert (invitation.at, invitation.hosts, invitation.keys) == (at, hosts, "a.pem")
        assert invitation.listen is None and invitation.expect is None


def test_the_environment_wins():
    environ = {"GEO_ACCEL_MEET": "b:1", "GEO_ACCEL_KEYS": "b.pem", "GEO_ACCEL_EXPECT": "3"}
    invitation = told(environ, at="a:2", keys="a.pem", expect=4, listen=":5")
    assert (invitation.at, invitation.keys, invitation.expect, invitation.listen) == (("b", 1), "b.pem", 3, ("", 5))


def test_one_job_over_all_sites_has_none():
    assert told({}) is None


@pytest.mark.parametrize(
    "environ, line",
    [
        (KEYS, "GEO_ACCEL_KEYS is set without GEO_ACCEL_MEET, which says where the sites meet"),
        ({"GEO_ACCEL_EXPECT": "2"}, "GEO_ACCEL_EXPECT is set without GEO_ACCEL_MEET"),
        ({"GEO_ACCEL_MEET": "a:1"}, "GEO_ACCEL_KEYS (or meet.keys) is missing: the site's key file"),
        *(
            (KEYS | {"GEO_ACCEL_MEET": where}, f"GEO_ACCEL_MEET: got {where!r}; allowed: host:port, or listen:port")
            for where in (
                "a",
                ":29400",
                "a:0",
                "a:65536",
                "a:b",
                "::1:5",
                "listen:",
                "a b:1",
                "http://a:1",
                "a..b:1",
                "a" * 64 + ":1",
            )
        ),
        *(
            (
                KEYS | {"GEO_ACCEL_MEET": "a:1", "GEO_ACCEL_EXPECT": number},
                f"GEO_ACCEL_EXPECT: got {number!r}; allowed",
            )
            for number in ("1", "two", "2.5", "-3")
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(environ, line):
    with pytest.raises(ValueError) as refused:
        told(environ)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)
